"""VMs to speak QMP with: quick to start, nothing in them, and QEMU's own answers beside ours.  Not for: clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.functional.traps.safety import bare


@contextmanager
def served(vm: TestVM, *options: str, argv: Sequence[str] | None = None, paused: bool = True) -> Iterator[QMPClient]:
    """``snaptree run OPTIONS…`` a VM; yield a client of QEMU itself; stop the VM afterwards.

    :param argv: QEMU's command line; by default that of ``bare``.
    :param paused: the VM's CPU does not begin to run, so nothing in it changes by itself.
    """
    own = vm.root / "own.sock"
    words = [*(argv or bare(vm)), "-qmp", f"unix:{own},server=on,wait=off", *["-S"] * paused]
    vm.cli("run", "--detach", *options, vm.name, "--", *words)
    with QMPClient(own) as client:
        yield client
        vm.cli("stop", "--discard", vm.name)


def answer(client: QMPClient, command: str, arguments: Mapping[str, Any] | None = None) -> tuple[str, Any]:
    """Return ``return`` and the value, or ``error`` and the error object."""
    try:
        return "return", client.execute(command, arguments)
    except QMPError as error:
        return "error", error.reply["error"]


def supervisor_log(vm: TestVM) -> str:
    """Return what the supervisor has logged."""
    return (vm.home / "vms" / vm.name / "supervisor.log").read_text()


class RawClient(QMPClient):
    """A client that can do more with its socket than speak QMP."""

    def send_with_fds(self, data: bytes, fds: Sequence[int]) -> None:
        """Send bytes, and descriptors with the first of them."""
        socket.send_fds(self._socket, [data], list(fds))

    def hang_up(self) -> None:
        """End the sending side only."""
        self._socket.shutdown(socket.SHUT_WR)


@contextmanager
def raw_client(vm: TestVM, *, negotiate: bool = True) -> Iterator[RawClient]:
    """Connect to the supervisor."""
    with RawClient(socket_path(vm), negotiate=negotiate) as client:
        yield client


def socket_path(vm: TestVM) -> Path:
    """Return where the supervisor serves the VM."""
    return vm.runtime / "snaptree" / vm.name / "qmp.sock"
