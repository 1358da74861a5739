"""Our server answers as the table says, by which real QEMU is measured too.

What is before QEMU and what is passed to it are one conversation here: some answers are ours, some are QEMU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, Case
from tests.conformance.recorder import play
from tests.framework.qemus import VERSIONS, find_qemu
from tests.framework.vm import TestVM


@pytest.fixture(scope="module", params=VERSIONS)
def qmp_socket(request: pytest.FixtureRequest) -> Iterator[Path]:
    vm = TestVM(find_qemu(request.param), "dev", disks=0)
    try:
        words = ["-machine", "none", "-display", "none", "-nodefaults", "-S"]
        vm.cli("run", "--detach", vm.name, "--", "qemu-system-x86_64", *words)
        yield vm.runtime / "snaptree" / vm.name / "qmp.sock"
        vm.cli("stop", vm.name)
    finally:
        vm.clean_up()


@pytest.mark.parametrize("size", [None, 1], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_our_server_answers_as_qemu(qmp_socket: Path, case: Case, size: int | None) -> None:
    assert play(qmp_socket, case.send, negotiated=case.negotiated, size=size) == case.replies
