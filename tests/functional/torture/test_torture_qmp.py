"""A QEMU whose QMP connection ends in the middle of a message, at any message: the operation fails, nothing is lost.

Between the supervisor and a real QEMU stands a relay, which cuts the connection in the middle of one of QEMU's lines.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.faults import ending, supervisor_of
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, plain_qemu


class Relay:
    """Hands everything on, both ways; cuts QEMU's side in the middle of the first message that holds some words."""

    def __init__(self, path: Path, target: Path) -> None:
        self.cut_at: bytes | None = None
        self.cut = False
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ended = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        os.write(self._ended[1], b"x")
        self._thread.join()
        self._listener.close()
        for fd in self._ended:
            os.close(fd)

    def _serve(self) -> None:
        while True:
            if self._ended[0] in select.select([self._listener.fileno(), self._ended[0]], [], [])[0]:
                return
            client, _ = self._listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
                server.connect(str(self._target))
                if not self._relay(client, server):
                    return

    def _relay(self, client: socket.socket, server: socket.socket) -> bool:
        """Relay one connection; say whether to go on afterwards."""
        while True:
            ready = select.select([client.fileno(), server.fileno(), self._ended[0]], [], [])[0]
            if self._ended[0] in ready:
                return False
            for here, there in ((client, server), (server, client)):
                if here.fileno() not in ready:
                    continue
                data = here.recv(1 << 16)
                if not data:
                    return True
                if here is server and self.cut_at is not None and (at := data.find(self.cut_at)) >= 0:
                    there.sendall(data[: at + len(self.cut_at) // 2])
                    self.cut_at, self.cut = None, True
                    return True
                there.sendall(data)


@contextlib.contextmanager
def relayed(vm: TestVM) -> Iterator[tuple[Relay, Path]]:
    with plain_qemu(vm, bare(vm, memory_mib=32)) as plain:
        path = vm.root / "relay.sock"
        relay = Relay(path, plain.attach_socket)
        try:
            yield relay, path
        finally:
            relay.close()


@pytest.mark.qemu("10")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("create", b'"status": "concluded"'),
        ("create", b'"event": "STOP"'),
        ("create", b'"event": "RESUME"'),
        ("load", b'"status": "concluded"'),
        ("load", b'"event": "STOP"'),
        ("delete", b'"status": "concluded"'),
    ],
)
def test_a_connection_that_ends_in_the_middle_of_a_message_costs_no_snapshot(
    vm_factory: VMFactory, command: str, words: bytes
) -> None:
    vm = vm_factory()
    with relayed(vm) as (relay, path):
        vm.cli("attach", "--detach", "dev", "--qmp", f"unix:{path}")
        with vm.qmp() as client:
            write(client, 1)
            client.execute("snapshot-create", {"name": "good"})
            write(client, 2)
            client.execute("snapshot-create", {"name": "other"})
        supervisor = supervisor_of(vm.home / "vms" / "dev")
        assert supervisor is not None
        relay.cut_at = words
        target = {"create": "new", "load": "good", "delete": "other"}[command]
        options = ("--discard",) if command == "load" else ()
        with ending(supervisor):
            done = vm.cli(command, *options, "dev", target, check=False)
            assert relay.cut
            assert done.returncode == 1, done
            assert "Traceback" not in done.stderr
            with contextlib.suppress(ProcessLookupError):  # where it still waits for a QEMU that is there
                os.kill(supervisor, signal.SIGTERM)
        vm.cli("attach", "--detach", "dev", "--qmp", f"unix:{path}")
        with vm.qmp() as client:
            listed = client.execute("query-snapshots", {"foreign": True})
            assert all(found["consistent"] and not found.get("foreign") for found in listed), listed
            names = {found["name"] for found in listed}
            assert names - {"new"} == ({"good"} if command == "delete" else {"good", "other"})
            assert client.execute("query-snapshot-status") is True
            for name in names:
                client.execute("snapshot-load", {"name": name, "keep": False})
                assert contents(vm, client) == [1 if name == "good" else 2] * 2
        check = vm.cli("check", "dev", check=False)
        assert check.returncode == 0, check.stdout
        vm.cli("stop", "dev", "--discard", check=False)
