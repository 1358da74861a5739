"""Where guest RAM lies: its file, and its place in QEMU's address space.  Not for: reading or writing it.

A *region* is one RAM block of QEMU whose content is a file that QEMU maps shared.  QEMU maps it once, in one piece;
later a fork may lay private mappings of a snapshot's image over parts of it.  Therefore a region is the contiguous
range of QEMU's address space that begins where the file's first byte was mapped, whatever lies there now.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..model.reason import Reason
from .kernel import PAGE_SIZE
from .refusal import refusal

HUGE_PAGE_BYTES = 2 << 20
"""The smallest huge page of x86-64; hugetlbfs tells it as the file's block size."""

_MAPS_LINE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$", re.MULTILINE
)
"""Start, end, mode, offset, the device's two numbers, inode, name."""
_OWN_DESCRIPTOR = re.compile(r"(?:/proc/self/fd|/dev/fd)/(\d+)")


class MapsLine(NamedTuple):
    """A line of /proc/PID/maps; QEMU has hundreds."""

    start: int
    end: int
    mode: str
    offset: int
    device: tuple[int, int]
    inode: int
    name: str

    @property
    def private(self) -> bool:
        """Whether writes to it stay in QEMU and don't reach the file."""
        return self.mode[3] == "p"


@dataclass(frozen=True, slots=True)
class RAMRegion:
    """One RAM block.

    :param block: QEMU's name for it, for example ``pc.ram``.
    :param size: bytes.
    :param address: where it begins in QEMU's address space.
    :param path: where its file can be opened, for reading and writing.
    :param device: of the file, with ``inode`` its identity (stat(2)).
    :param private: a part of it is a private mapping: the file then doesn't show what QEMU sees.
    :param covered: all of it is.
    """

    block: str
    size: int
    address: int
    path: str
    device: int
    inode: int
    private: bool = False
    covered: bool = False

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return self.size // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Backend:
    """A memory backend as QEMU tells of it.

    :param block: its RAM block's name.
    :param mem_path: its ``mem-path``, in QEMU's eyes; ``None`` where it isn't of a file.
    :param size: bytes.
    """

    block: str
    mem_path: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process shows of its RAM at one moment.

    :param files: the names of its open files, by descriptor.
    """

    maps: Sequence[MapsLine]
    files: Mapping[int, str]


def look(pid: int) -> Seen:
    """Look at a process.

    :raises TracingRefused: where we may not.
    :raises ProcessLookupError: where it is gone.
    """
    return Seen(_maps(pid), _open_files(pid))


def find_regions(
    pid: int, backends: Sequence[Backend], known: Mapping[str, int] | None = None, *, seen: Seen | None = None
) -> tuple[tuple[RAMRegion, ...], tuple[Reason, ...]]:
    """Return the region of each backend, in their order, and a reason for each that cannot be one.

    :param known: addresses by block, noted earlier in the life of this process, for regions that private mappings
        cover wholly: of these the process's mappings no longer tell.
    :param seen: the process, as it was when it had its RAM; without it, it is looked at now.
    :raises TracingRefused: where we may not look at the process.
    :raises ProcessLookupError: where it is gone.
    """
    regions, reasons = [], []
    seen = seen or look(pid)
    for backend in backends:
        found = _find_region(pid, backend, seen.maps, seen.files, (known or {}).get(backend.block))
        if isinstance(found, RAMRegion):
            regions.append(found)
        else:
            reasons.append(found)
    return tuple(regions), tuple(reasons)


def parse_maps(text: str) -> list[MapsLine]:
    """Return the lines of /proc/PID/maps (proc(5))."""
    return [
        MapsLine(
            int(start, 16), int(end, 16), mode, int(offset, 16), (int(major, 16), int(minor, 16)), int(inode), name
        )
        for start, end, mode, offset, major, minor, inode, name in _MAPS_LINE.findall(text)
    ]


def covers(maps: Sequence[MapsLine], start: int, end: int) -> list[MapsLine] | None:
    """Return the mappings that lie in a range; ``None`` where they leave a gap."""
    inside = [mapping for mapping in maps if mapping.start < end and start < mapping.end]
    at = start
    for mapping in inside:
        if mapping.start > at:
            return None
        at = mapping.end
    return inside if at >= end else None


def _find_region(
    pid: int, backend: Backend, maps: Sequence[MapsLine], files: Mapping[int, str], known: int | None
) -> RAMRegion | Reason:
    """Return a backend's region, or why it cannot be one."""
    if backend.mem_path is None:
        return _unusable(backend, "is not in a file, so only QEMU can reach it")
    path = _as_seen_here(pid, backend, files)
    try:
        found = Path(path).stat()
    except OSError as error:
        return _unusable(backend, f"is in {backend.mem_path}, which cannot be opened: {error.strerror}")
    if found.st_blksize >= HUGE_PAGE_BYTES:
        return _unusable(backend, f"is in {backend.mem_path}, which is of huge pages (hugetlbfs)")
    device = (os.major(found.st_dev), os.minor(found.st_dev))
    name = os.path.realpath(path)
    # btrfs and overlayfs show another device in maps than in stat(2).
    lines = [line for line in maps if line.inode == found.st_ino and (line.device == device or line.name == name)]
    starts = [line.start - line.offset for line in lines if not line.private]
    address = min(starts, default=None) if known is None else known
    if address is None:
        return _unusable(backend, f"is in {backend.mem_path}, but not shared: QEMU keeps what is written to itself")
    inside = covers(maps, address, address + backend.size)
    if inside is None or found.st_size < backend.size or backend.size % PAGE_SIZE:
        return _unusable(backend, f"is not mapped in one piece of {backend.size} bytes")
    private, covered = any(line.private for line in inside), all(line.private for line in inside)
    return RAMRegion(backend.block, backend.size, address, path, found.st_dev, found.st_ino, private, covered)


def _as_seen_here(pid: int, backend: Backend, files: Mapping[int, str]) -> str:
    """Return a path that opens the backend's file in our process."""
    path = str(backend.mem_path)
    if match := _OWN_DESCRIPTOR.fullmatch(path):
        return f"/proc/{pid}/fd/{match[1]}"
    if path.startswith("/proc/"):
        return path
    path = os.path.join(f"/proc/{pid}/cwd", path)
    if not Path(path).is_dir():
        return path
    # Given a directory, QEMU makes a file in it, and removes its name at once (qemu_ram_alloc_from_file).
    start = os.path.join(os.path.realpath(path), f"qemu_back_mem.{backend.block.replace('/', '_')}.")
    return next((f"/proc/{pid}/fd/{number}" for number, name in files.items() if name.startswith(start)), path)


def _unusable(backend: Backend, why: str) -> Reason:
    return Reason(
        "ram-not-shared",
        f"RAM block {backend.block} {why}.",
        "Let `snaptree run` choose the backend, or give memory-backend-file with share=on and a file on tmpfs.",
    )


def _maps(pid: int) -> list[MapsLine]:
    try:
        return parse_maps(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape"))
    except PermissionError as error:
        raise refusal(pid, error) from error
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error


def _open_files(pid: int) -> dict[int, str]:
    """Return the process's descriptors with the names of their files."""
    found = {}
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[int(entry.name)] = str(entry.readlink())
    except PermissionError as error:
        raise refusal(pid, error) from error
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    return dict(sorted(found.items()))
