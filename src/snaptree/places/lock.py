"""The lock that says who looks after a VM.  Not for: the locks of disk images, which are QEMU's.

It is an open file description lock (fcntl(2)) on ``vms/VM/lock``: the kernel drops it when its holder dies, and
one can ask whether it is held without taking it, so that asking never makes a start fail.

A supervisor locks the whole file.  A command that works on a stopped VM locks its first byte only: each excludes the
other, and whoever asks learns from the lock itself which of the two it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Literal

from ..model.errors import SnaptreeError
from ..model.names import printable
from .process import identify

Holder = Literal["supervisor", "command"]

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hh4xqqi4x")
_LENGTH: dict[Holder, int] = {"supervisor": 0, "command": 1}
"""How many bytes each locks; 0 is all, however long the file is."""
DYING_S = 2.0
DYING_POLL_S = 0.005


class SupervisorLock:
    """The lock of one VM, held until :meth:`release` or the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path, holder: Holder = "supervisor") -> SupervisorLock | None:
        """Take the lock; ``None`` where another process holds it.  Writes our pid into the file.

        :raises SnaptreeError: where it can't be taken by anybody here.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _no_lock(path, error, "The VM's folder must be writable by you.") from error
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, _LENGTH[holder], 0))
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError | PermissionError):
                return None
            raise _no_lock(path, error, "Put SNAPTREE_HOME on a file system that has locks.") from error
        with contextlib.suppress(OSError):  # it is held also where no byte is free
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return cls(fd)

    @property
    def fd(self) -> int:
        """The descriptor: a child that inherits it holds the lock too, until both have ended."""
        return self._fd

    def release(self) -> None:
        """Give it back."""
        os.close(self._fd)


def _no_lock(path: Path, error: OSError, remedy: str) -> SnaptreeError:
    return SnaptreeError(f"The lock {printable(str(path), 400)} cannot be taken: {error.strerror}.", remedy)


def is_held(path: Path) -> bool:
    """Say whether some process holds the lock, without taking it."""
    return holder(path) is not None


def holder(path: Path) -> Holder | None:
    """Say who holds the lock, without taking it; ``None`` where nobody does.

    A process that was killed shows as ended while its last threads still hold the lock: it is waited for.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        until = time.monotonic() + DYING_S
        while (found := holder_of(fd)) and _has_ended(fd) and time.monotonic() < until:
            time.sleep(DYING_POLL_S)
        return found
    finally:
        os.close(fd)


def _has_ended(fd: int) -> bool:
    """Say whether the process whose pid is in the file is no more."""
    pid = os.pread(fd, 20, 0).strip()
    return pid.isdigit() and identify(int(pid)) is None


def holder_of(fd: int) -> Holder | None:
    """Say who else holds the lock on an open file.

    :raises OSError: where the file system can't say.
    """
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, length, _ = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    return "command" if length == _LENGTH["command"] else "supervisor"
