"""The system calls of the page store: whole reads and writes, holes, durable names.  Not for: what the bytes mean."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from ..model.errors import PagesDamaged, PageStoreError
from ..places import files
from .pages import PAGE, Bytes, Pages

# linux/falloc.h
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
IOV_MAX: Final = 1024
"""The most buffers that one preadv(2) or pwritev(2) takes (``UIO_MAXIOV`` in linux/uio.h)."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_ZEROS: Final = bytes(1 << 20)


@contextmanager
def failing(what: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside into a PageStoreError: ``what`` failed at ``path``."""
    try:
        yield
    except OSError as error:
        remedy = "Make room on that file system." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise PageStoreError(f"{path}: {what}: {error.strerror or error}.", remedy) from error


def open_file(path: Path) -> int:
    """Open a file for reading, and for writing too where that is allowed."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | flags)


def create(path: Path) -> int:
    """Make a file anew, for its owner only."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def read(fd: int, size: int, offset: int) -> bytes:
    """Read as many of ``size`` bytes as there are."""
    return os.pread(fd, size, offset)


def read_into(fd: int, buffers: Sequence[memoryview], offset: int, path: Path) -> None:
    """Fill the buffers, which have the format ``B``, from ``offset`` on.

    :raises PagesDamaged: where the file ends before.
    """
    left, size = list(buffers), sum(map(len, buffers))
    while size:
        done = os.preadv(fd, left, offset)
        if not done:
            raise PagesDamaged(f"{path} ends at byte {offset}, and pages are missing behind that.")
        size -= done
        offset += done
        if size:
            left = _rest(left, done)


def write_all(fd: int, buffers: Sequence[memoryview | bytes], offset: int) -> None:
    """Write all of the buffers, which have the format ``B``, from ``offset`` on."""
    left, size = [memoryview(buffer) for buffer in buffers], sum(map(len, buffers))
    while size:
        done = os.pwritev(fd, left, offset)
        size -= done
        offset += done
        if size:
            left = _rest(left, done)


def _rest(buffers: list[memoryview], done: int) -> list[memoryview]:
    while done >= len(buffers[0]):
        done -= len(buffers.pop(0))
    buffers[0] = buffers[0][done:]
    return buffers


def batches(places: Pages, rows: Pages, content: Bytes) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield what goes into one preadv(2) or pwritev(2) each: the first place, and the rows of ``content`` for it.

    :param places: ascending numbers of pages in a file.
    :param rows: which row of ``content`` belongs there.
    """
    if not len(places):
        return
    run = np.ones(len(places), np.bool_)
    run[1:] = places[1:] - places[:-1] != 1
    piece = run.copy()
    piece[1:] |= rows[1:] - rows[:-1] != 1
    starts = np.flatnonzero(piece)
    edges = [*starts.tolist(), len(places)]
    memory = content.reshape(-1).data
    buffers: list[memoryview] = []
    first = 0
    for place, row, size, new in zip(
        places[starts].tolist(),
        rows[starts].tolist(),
        [end - start for start, end in pairwise(edges)],
        run[starts].tolist(),
        strict=True,
    ):
        if buffers and (new or len(buffers) == IOV_MAX):
            yield first, buffers
            buffers = []
        if not buffers:
            first = place
        buffers.append(memory[row * PAGE : (row + size) * PAGE])
    yield first, buffers


def punch(fd: int, offset: int, size: int) -> None:
    """Make bytes zero, and give their space back where the file system can."""
    if not _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size):
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    for start in range(offset, offset + size, len(_ZEROS)):
        write_all(fd, [_ZEROS[: offset + size - start]], start)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file anew, durably but for its name."""
    fd = create(path)
    try:
        write_all(fd, [data], 0)
        sync(fd)
    finally:
        os.close(fd)


def truncate(fd: int, size: int) -> None:
    """Make the file so long."""
    os.ftruncate(fd, size)


def sync(fd: int) -> None:
    """Make the file's content durable."""
    os.fdatasync(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    files.sync_directory(path)


def rename(old: Path, new: Path) -> None:
    """Give a file another name, in place of what has that name."""
    old.rename(new)


def unlink(path: Path) -> None:
    """Remove a file; none is fine."""
    path.unlink(missing_ok=True)
