"""Real QEMU answers as the table says; so what our server is measured by is true."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, Case
from tests.conformance.recorder import play
from tests.framework.qemus import VERSIONS, find_qemu
from tests.framework.waiting import wait_until


@pytest.fixture(scope="module", params=VERSIONS)
def qmp_socket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("qemu") / "qmp.sock"
    words = ["-machine", "none", "-display", "none", "-nodefaults", "-S"]
    process = subprocess.Popen([find_qemu(request.param).system, *words, "-qmp", f"unix:{path},server=on,wait=off"])
    try:
        wait_until(
            lambda: _listens(path),
            "QEMU's QMP socket",
            broken=lambda: f"QEMU ended: {process.poll()}" * (process.poll() is not None),
        )
        yield path
    finally:
        process.kill()
        process.wait()


def _listens(path: Path) -> bool:
    """Say whether somebody accepts there: the name is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.parametrize("size", [None, 1], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_qemu_answers_as_recorded(qmp_socket: Path, case: Case, size: int | None) -> None:
    assert play(qmp_socket, case.send, negotiated=case.negotiated, size=size) == case.replies
