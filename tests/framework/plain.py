"""A QEMU that runs without snaptree: to show what QEMU itself does, or to be attached to.  Not for: its arguments."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .qmp import QMPClient
from .waiting import TIMEOUT_S


class PlainQEMU:
    """A QEMU without snaptree.

    :ivar qmp: a client, connected.
    :ivar attach_socket: a second QMP socket, which nobody is connected to (QEMU serves one client on each).
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], folder: Path, number: int, inherit: Sequence[int] = ()
    ) -> None:
        self.argv = argv
        self.log = folder / f"plain-{number}.log"
        self.attach_socket = folder / f"attach-{number}.sock"
        own_socket = folder / f"plain-{number}.sock"
        for socket in (own_socket, self.attach_socket):
            argv += ["-qmp", f"unix:{socket},server=on,wait=off"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=inherit,
            )
        try:
            self.qmp = QMPClient(own_socket, broken=self.ended)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ended(self) -> str | None:
        """Return how QEMU ended, with its last words; ``None`` while it runs."""
        status = self._process.poll()
        return None if status is None else f"QEMU ended with status {status}: {self.log.read_text(errors='replace')}"

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait until QEMU has ended, and return its status."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End QEMU by SIGKILL, and wait for that; what it held open is free then."""
        self.qmp.close()
        self._process.kill()
        self._process.wait()
