"""The RAM of a guest, read past snaptree and QEMU's monitor.  Not for: RAM that QEMU keeps to itself."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

PAGE = 4096
_CHUNK = 1 << 20
_WEIGHTS = np.random.default_rng(0).integers(0, 1 << 64, PAGE // 8, dtype=np.uint64) | np.uint64(1)
"""Odd, so that whatever one word becomes, the sum becomes another."""


FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


def files(pid: int) -> dict[str, Path]:
    """Return where the file of each RAM block is, by block."""
    found = {}
    for name in sorted(Path(f"/proc/{pid}/fd").iterdir()):
        target = str(name.readlink()) if name.is_symlink() else ""
        if target.startswith("/memfd:snaptree:"):
            found[target.removeprefix("/memfd:snaptree:").removesuffix(" (deleted)")] = name
    assert found, f"no RAM of process {pid} lies in a memfd of snaptree's"
    return found


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Take memory away from a file, as QEMU does for a guest's balloon."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def checksums(data: bytes | npt.NDArray[np.uint8]) -> array[int]:
    """Return a checksum of each page, that of a page of zeros being 0: a tenth of the time that CRCs take."""
    found = array("L")
    found.frombytes(np.einsum("ij,j->i", np.frombuffer(data, np.uint64).reshape(-1, PAGE // 8), _WEIGHTS).tobytes())
    return found


def digests(pid: int, addresses: Mapping[str, int] = MappingProxyType({})) -> dict[str, array[int]]:
    """Return a checksum of each page of each RAM block that lies in a memfd of snaptree's, by block.

    Only while the VM stands still is it that of one moment.

    :param addresses: where blocks lie in QEMU's address space that are mapped over their memfds, as a fork's are.
    """
    return {
        block: _memory(pid, addresses[block], path.stat().st_size) if block in addresses else _file(path)
        for block, path in files(pid).items()
    }


def of_file(path: Path) -> array[int]:
    """Return a checksum of each page of a file."""
    return _file(path)


def differing(one: dict[str, array[int]], other: dict[str, array[int]]) -> list[tuple[str, int]]:
    """Return block and number of every page that differs."""
    assert one.keys() == other.keys()
    return [
        (block, page)
        for block, pages in one.items()
        for page, (here, there) in enumerate(_pairs(pages, other[block]))
        if here != there
    ]


def _pairs(one: Sequence[int], other: Sequence[int]) -> zip[tuple[int, int]]:
    return zip(one, other, strict=True)


def _memory(pid: int, address: int, size: int) -> array[int]:
    found = array("L")
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for start in range(0, size, _CHUNK):
            data = os.pread(fd, _CHUNK, address + start)
            assert len(data) == _CHUNK
            found.extend(checksums(data))
    finally:
        os.close(fd)
    return found


def _file(path: Path) -> array[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        found = array("L", [0]) * (size // PAGE)
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # holes to the end
            end = os.lseek(fd, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(fd, min(_CHUNK, end - at), at)
                found[at // PAGE : (at + len(data)) // PAGE] = checksums(data)
                at += len(data)
        return found
    finally:
        os.close(fd)
