"""Holding disk images as a QEMU that writes to them would.  Not for: changing them.

Whoever has an image open holds, by open file description locks (fcntl(2)), a read lock on one byte for each thing that
it does with the image (``RAW_LOCK_PERM_BASE`` in QEMU's block/file-posix.c), and one for each thing that it lets nobody
else do (``RAW_LOCK_SHARED_BASE``); then it looks for others' locks that contradict its own.  So do we.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import Refused
from ..model.names import printable

# QEMU's block/file-posix.c
RAW_LOCK_PERM_BASE = 100
RAW_LOCK_SHARED_BASE = 200
RAW_LOCK_END = 300
"""No lock of QEMU's is at or behind it: a permission is one of 64 bits."""

# Bits of QEMU's block permissions (include/block/block-common.h): what a writable qcow2 image does with its file.
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_DONE = (_CONSISTENT_READ, _WRITE, _RESIZE)
_FOR_US_ALONE = (_WRITE, _RESIZE)

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hh4xqqi4x")


@dataclass(frozen=True, slots=True)
class HeldImages:
    """Images that no QEMU can open for writing now.

    :param fds: the descriptor of each image; a child that inherits them holds the locks too, until both have ended.
    """

    fds: Mapping[str, int]

    def sync(self, file: str) -> None:
        """Write back what the host's page cache holds of an image."""
        os.fdatasync(self.fds[file])


@contextmanager
def held(files: Iterable[str]) -> Iterator[HeldImages]:
    """Hold all of these images, or none.

    :raises Refused: where one is in use, or cannot be opened; nothing is held then.
    """
    with ExitStack() as stack:
        fds: dict[str, int] = {}
        for file in sorted(set(files)):
            fds[file] = _open(file)
            stack.callback(os.close, fds[file])
            _lock(fds[file], file)
        for file, fd in fds.items():
            _look(fd, file)
        yield HeldImages(fds)


def in_use(file: str) -> bool:
    """Say whether somebody has an image open as QEMU has; not where that can't be seen: no file here, locking=off."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, RAW_LOCK_PERM_BASE, RAW_LOCK_END - RAW_LOCK_PERM_BASE, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)


def _open(file: str) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise Refused(
            f"The image {printable(file, 400)} cannot be opened for writing: {error.strerror}.",
            "Put it back, or check who may write there.",
        ) from error


def _lock(fd: int, file: str) -> None:
    ours = [RAW_LOCK_PERM_BASE + bit for bit in _DONE] + [RAW_LOCK_SHARED_BASE + bit for bit in _FOR_US_ALONE]
    for byte in ours:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        except (BlockingIOError, PermissionError) as error:
            raise _in_use(file) from error
        except OSError as error:
            raise Refused(
                f"The image {printable(file, 400)} cannot be locked: {error.strerror}.",
                "Without locks a QEMU could open it meanwhile; put it on a file system that has them.",
            ) from error


def _look(fd: int, file: str) -> None:
    against = [RAW_LOCK_SHARED_BASE + bit for bit in _DONE] + [RAW_LOCK_PERM_BASE + bit for bit in _FOR_US_ALONE]
    for byte in against:
        # Our own locks, on the same description, don't count.
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        if _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
            raise _in_use(file)


def _in_use(file: str) -> Refused:
    users = " and ".join(users_of(file)) or "another process"
    return Refused(f"The image {printable(file, 400)} is in use by {users}.", "End what uses the image, and try again.")


def users_of(file: str) -> list[str]:
    """Return who else has a file open, for people; of other users' processes only root sees it."""
    found = []
    with contextlib.suppress(OSError):
        here = Path(file).stat()
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) != os.getpid() and _has_open(process, here):
                name = _read_name(process)
                found.append(f"{printable(name)[1:-1]} (pid {process.name})")
    return sorted(found)


def _has_open(process: Path, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):  # it is another user's, or has ended
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(fd.stat(), file):
                    return True
    return False


def _read_name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"
