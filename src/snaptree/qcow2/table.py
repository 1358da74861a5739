"""A qcow2 image's snapshot table, from bytes.  Not for: finding it in a file.

A snapshot is called an entry of an image here: what a snapshot of a VM is, needs all its devices.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .errors import CutShort, DamagedImage
from .header import MAX_SNAPSHOTS

# QEMU's block/qcow2.h
MAX_TABLE_BYTES = 1024 * MAX_SNAPSHOTS  # QCOW_MAX_SNAPSHOTS_SIZE
MAX_EXTRA_BYTES = 1024  # QCOW_MAX_SNAPSHOT_EXTRA_DATA

_ENTRY = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQQ")
_EXTRA_NO_ICOUNT = struct.Struct(">QQ")
_EXTRA_NO_DISK_SIZE = struct.Struct(">Q")
_NO_ICOUNT = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """One entry of an image's snapshot table.

    :param qemu_id: QEMU's own id, unique in the image only, and used again after a delete.
    :param tag: QEMU's name of it; nothing keeps two entries from having the same.
    :param date_ns: the host's clock, UTC, nanoseconds since the epoch.
    :param vm_clock_ns: the guest's clock, nanoseconds.
    :param vm_state_size: bytes of VM state; 0 where this image holds none of it.
    :param disk_size: the virtual disk's size in bytes then; ``None`` in old images that do not say.
    :param icount: instructions executed until then; ``None`` where QEMU did not count them.
    :param l1_offset: where its L1 table lies, in bytes; not checked yet, as ``l1_entries`` is not.
    """

    qemu_id: str
    tag: str
    date_ns: int
    vm_clock_ns: int
    vm_state_size: int
    disk_size: int | None
    icount: int | None
    l1_offset: int
    l1_entries: int


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """A whole snapshot table.

    :param data: its bytes.
    :param ends: where each entry ends in them.
    """

    data: bytes
    snapshots: tuple[ImageSnapshot, ...]
    ends: tuple[int, ...]

    def start(self, index: int) -> int:
        """Return where an entry begins."""
        return _aligned(self.ends[index - 1]) if index else 0


def parse_snapshot_table(data: bytes, count: int, known: SnapshotTable | None = None) -> SnapshotTable:
    """Return the table of ``count`` entries that ``data`` begins with, in the image's order.

    Ids and tags are decoded as UTF-8 with surrogateescape.

    :param known: an earlier table: entries that have the same bytes in it, before and behind what has changed, are not
        parsed again.  QEMU writes the whole table anew for each snapshot that comes or goes.
    :raises CutShort: where ``data`` ends before the table does.
    :raises DamagedImage: where QEMU's limits are exceeded.
    """
    if not 0 <= count <= MAX_SNAPSHOTS:
        raise DamagedImage(f"Its snapshot table would have {count} entries; at most {MAX_SNAPSHOTS} are possible.")
    entries: list[ImageSnapshot] = []
    ends: list[int] = []
    if known is not None:
        _take_known(data, count, known, entries, ends)
    while len(entries) < count:
        entry, end = _parse_entry(data, _aligned(ends[-1]) if ends else 0, len(entries), count)
        entries.append(entry)
        ends.append(end)
    return SnapshotTable(data[: ends[-1]] if ends else b"", tuple(entries), tuple(ends))


def _take_known(data: bytes, count: int, known: SnapshotTable, entries: list[ImageSnapshot], ends: list[int]) -> None:
    """Take over the entries that the table begins with as ``known`` does, and those it ends with, if that is all."""
    same = _same_entries(data, known, min(count, len(known.ends)))
    entries += known.snapshots[:same]
    ends += known.ends[:same]
    first = len(known.ends) - (count - same)
    if same < count and first >= same:
        start, at = known.start(first), _aligned(ends[-1]) if ends else 0
        if data.startswith(known.data[start:], at):
            entries += known.snapshots[first:]
            ends += [end - start + at for end in known.ends[first:]]


def _same_entries(data: bytes, known: SnapshotTable, most: int) -> int:
    """Return with how many entries of ``known``, at most, the bytes begin."""
    low, high = 0, most
    while low < high:
        middle = high if (low, high) == (0, most) else (low + high + 1) // 2  # mostly it is all of them
        if data.startswith(known.data[: known.ends[middle - 1]]):
            low = middle
        else:
            high = middle - 1
    return low


def _parse_entry(data: bytes, start: int, index: int, count: int) -> tuple[ImageSnapshot, int]:
    """Return an entry, and where it ends."""
    available = len(data)
    vm_state_size: int
    disk_size: int | None
    icount: int | None
    extra = start + _ENTRY.size
    if extra > available:
        raise CutShort(f"The image ends inside its snapshot table, at entry {index} of {count}.", needed=extra)
    l1_offset, l1_entries, id_bytes, tag_bytes, seconds, ns, vm_clock_ns, vm_state_size, extra_bytes = (
        _ENTRY.unpack_from(data, start)
    )
    if extra_bytes > MAX_EXTRA_BYTES:
        raise DamagedImage(f"Entry {index} of its snapshot table has {extra_bytes} bytes of extra data.")
    id_start = extra + extra_bytes
    tag_start = id_start + id_bytes
    end = tag_start + tag_bytes
    if end > MAX_TABLE_BYTES:
        raise DamagedImage(f"Its snapshot table is longer than {MAX_TABLE_BYTES} bytes.")
    if end > available:
        raise CutShort(f"The image ends inside its snapshot table, at entry {index} of {count}.", needed=end)
    disk_size = icount = None
    if extra_bytes >= _EXTRA.size:
        vm_state_size, disk_size, icount = _EXTRA.unpack_from(data, extra)
        if icount == _NO_ICOUNT:
            icount = None
    elif extra_bytes >= _EXTRA_NO_ICOUNT.size:
        vm_state_size, disk_size = _EXTRA_NO_ICOUNT.unpack_from(data, extra)
    elif extra_bytes >= _EXTRA_NO_DISK_SIZE.size:
        (vm_state_size,) = _EXTRA_NO_DISK_SIZE.unpack_from(data, extra)
    id, tag = _text(data[id_start:tag_start]), _text(data[tag_start:end])
    date_ns = seconds * 1_000_000_000 + ns
    return ImageSnapshot(id, tag, date_ns, vm_clock_ns, vm_state_size, disk_size, icount, l1_offset, l1_entries), end


def _aligned(end: int) -> int:
    return end + 7 & ~7


def _text(raw: bytes) -> str:
    """Decode an id or a tag as QEMU takes it: it ends at the first NUL."""
    if b"\0" in raw:
        raw = raw.partition(b"\0")[0]
    return raw.decode("utf-8", "surrogateescape")
