"""The RAM of a guest, read past snaptree and QEMU's monitor.  Not for: RAM that QEMU keeps to itself."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

PAGE = 4096
_CHUNK = 1 << 20


def digests(pid: int) -> dict[str, array[int]]:
    """Return a checksum of each page of each RAM block that lies in a memfd of snaptree's, by block.

    Only while the VM stands still is it that of one moment.
    """
    found: dict[str, array[int]] = {}
    for name in sorted(Path(f"/proc/{pid}/fd").iterdir()):
        target = str(name.readlink()) if name.is_symlink() else ""
        if target.startswith("/memfd:snaptree:"):
            found[target.removeprefix("/memfd:snaptree:").removesuffix(" (deleted)")] = _file(name)
    assert found, f"no RAM of process {pid} lies in a memfd of snaptree's"
    return found


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


def _file(path: Path) -> array[int]:
    zeros = zlib.crc32(bytes(PAGE))
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        found = array("L", [zeros]) * (size // PAGE)
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # holes to the end
            end = os.lseek(fd, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(fd, min(_CHUNK, end - at), at)
                for start in range(0, len(data), PAGE):
                    found[(at + start) // PAGE] = zlib.crc32(data[start : start + PAGE])
                at += len(data)
        return found
    finally:
        os.close(fd)
