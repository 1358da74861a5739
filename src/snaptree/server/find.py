"""Finding out about a QEMU that somebody else started.  Not for: talking QMP to it."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from ..model.errors import ProtocolError, QEMUGone
from ..model.names import printable
from ..places.places import Running
from ..qemu import launch


def absolute(address: str) -> str:
    """Return a QMP address that means the same from any directory."""
    if address.startswith("tcp:"):
        return address
    path = address.removeprefix("unix:").partition(",")[0]
    return f"unix:{Path(path).absolute()}"


def find_process(address: str, known: Running | None) -> launch.Process | None:
    """Return the process that listens at ``address``, where that can be found out."""
    if known is not None and known.qemu is not None and known.qemu_qmp == address and known.qemu.alive():
        return launch.Process.of(known.qemu.pid)
    if not address.startswith("unix:"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address.removeprefix("unix:"))
        except BlockingIOError as error:
            raise ProtocolError(
                f"QEMU's QMP socket {printable(address)} takes nobody now: another client holds it, or QEMU is busy.",
                "End that client (QEMU serves one at a time), or wait until QEMU is done.",
            ) from error
        except OSError as error:
            raise QEMUGone(
                f"Nobody answers at QEMU's QMP socket {printable(address)}: {error.strerror}.",
                "Start QEMU with -qmp unix:PATH,server=on,wait=off and give that PATH.",
            ) from error
        # SO_PEERCRED of a listening socket names who called listen(2): QEMU, unless it was handed the socket.
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = struct.unpack("3i", raw)[0]
    try:
        is_qemu = "qemu" in Path(f"/proc/{pid}/comm").read_text()
        return launch.Process.of(pid) if is_qemu else None
    except OSError:
        return None


def command_of(process: launch.Process | None) -> list[str]:
    """Return the command line of a process that somebody else started, where it can be read."""
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes() if process else b""
    except OSError:
        raw = b""
    return [os.fsdecode(word) for word in raw.split(b"\0")[:-1]]


def cwd_of(process: launch.Process | None) -> str:
    """Return the working directory of a process that somebody else started, where it can be read."""
    try:
        return str(Path(f"/proc/{process.pid}/cwd").readlink()) if process else ""
    except OSError:
        return ""
