"""Which ranges of the disk differ between two snapshots of one image.  Not for: VM state, and the backing image.

QEMU copies a cluster that a snapshot uses before it writes to it.  So what is mapped to the same place is the same,
and an L2 table that both have needs no look.  What is mapped to two places is read and compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from .errors import DamagedImage
from .header import CRYPT_NONE, Header
from .image import Image
from .mapping import OFFSET_MASK, check_host_offset
from .table import ImageSnapshot

GRAIN: Final = 4096
"""Bytes of the smallest difference that is told, where clusters are not smaller."""

# QEMU's block/qcow2.h
_COMPRESSED = 1 << 62
_ZERO = 1
_SECTOR = 512
_SUBCLUSTERS = 32


class Run(NamedTuple):
    """A range of the disk, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Where a cluster's, or a subcluster's, content is.

    :param kind: ``data`` at a host offset; ``packed``, the compressed cluster that the host offset's entry describes;
        ``zero``; ``below``, in the backing image.
    :param place: the host offset of data; the entry of what is compressed; else 0.
    """

    kind: Literal["data", "packed", "zero", "below"]
    place: int = 0


def differing(image: Image, one: ImageSnapshot, other: ImageSnapshot) -> Iterator[Run]:
    """Yield the ranges that differ, in ascending order, none of them touching the next.

    Both snapshots must not be deleted meanwhile; the image may be in use.  Where one has data and the other reads from
    the backing image, where an image is encrypted, or a cluster is compressed by zstd, content is not compared: such a
    range may be equal all the same.  Where the disk had different sizes, the rest of the larger one differs.

    :raises ImageError: where the image cannot be read, or is damaged.
    """
    return _merged(_differing(image, one, other))


def units(header: Header, table: bytes) -> list[Unit]:
    """Return what the entries of an L2 table say, one for each cluster, with extended L2 entries for each subcluster.

    :raises DamagedImage: where an entry is impossible.
    """
    below = Unit("below") if header.backing_file is not None else Unit("zero")
    found = []
    if not header.extended_l2:
        for (entry,) in struct.iter_unpack(">Q", table):
            found.append(_unit(header, entry, below))
        return found
    size = header.cluster_size // _SUBCLUSTERS
    for entry, bitmap in struct.iter_unpack(">QQ", table):
        whole = _unit(header, entry & ~_ZERO, below)
        if whole.kind == "packed":
            found.extend(Unit("packed", entry | index << 64) for index in range(_SUBCLUSTERS))
            continue
        for index in range(_SUBCLUSTERS):
            if bitmap >> index + _SUBCLUSTERS & 1:
                found.append(Unit("zero"))
            elif bitmap >> index & 1:
                if whole.kind != "data":
                    raise DamagedImage(f"An L2 entry has the impossible subcluster bitmap {bitmap:#018x}.")
                found.append(Unit("data", whole.place + index * size))
            else:
                found.append(below)
    return found


def _unit(header: Header, entry: int, below: Unit) -> Unit:
    if entry & _COMPRESSED:
        return Unit("packed", entry & (_COMPRESSED - 1))
    offset = check_host_offset(header, "L2", entry & OFFSET_MASK)
    if entry & _ZERO and header.version >= 3:
        return Unit("zero")
    return Unit("data", offset) if offset else below


def _differing(image: Image, one: ImageSnapshot, other: ImageSnapshot) -> Iterator[Run]:
    first, second = image.snapshot_l1(one), image.snapshot_l1(other)
    header = image.header
    sizes = [header.disk_size if each.disk_size is None else each.disk_size for each in (one, other)]
    size = min(sizes)
    for index in range(header.l1_entries_for(size)):
        tables = [l1[index] if index < len(l1) else 0 for l1 in (first, second)]
        if tables[0] != tables[1]:
            start = index * header.l1_entry_covers
            for run in _within(image, header, tables[0], tables[1]):
                begin = start + run.offset
                if begin < size:
                    yield Run(begin, min(run.length, size - begin))
    if max(sizes) > size:
        yield Run(size, max(sizes) - size)


def _within(image: Image, header: Header, one: int, other: int) -> Iterator[Run]:
    """Yield what differs between two L2 tables, counted from where they begin."""
    length = header.cluster_size // (_SUBCLUSTERS if header.extended_l2 else 1)
    pairs = zip(_table(image, header, one), _table(image, header, other), strict=True)
    for index, (first, second) in enumerate(pairs):
        if first != second:
            for run in _compared(image, header, first, second, length):
                yield Run(index * length + run.offset, run.length)


def _table(image: Image, header: Header, offset: int) -> list[Unit]:
    if not offset:
        return units(header, bytes(header.cluster_size))
    data = image.read_at(check_host_offset(header, "L1", offset), header.cluster_size)
    if len(data) < header.cluster_size:
        raise DamagedImage(f"{image.path}: The image ends inside the L2 table at byte {offset}.")
    return units(header, data)


def _compared(image: Image, header: Header, first: Unit, second: Unit, length: int) -> Iterator[Run]:
    contents = [_content(image, header, unit, length) for unit in (first, second)]
    one, other = contents
    if one is None or other is None:
        yield Run(0, length)
    elif one != other:
        grain = min(GRAIN, length)
        for start in range(0, length, grain):
            if one[start : start + grain] != other[start : start + grain]:
                yield Run(start, grain)


def _content(image: Image, header: Header, unit: Unit, length: int) -> bytes | None:
    """Return the content; None where that is not known here."""
    if unit.kind == "zero":
        return bytes(length)
    if unit.kind == "below" or header.crypt_method != CRYPT_NONE:
        return None
    if unit.kind == "data":
        # QEMU reads zeros behind the file's end.
        return image.read_at(unit.place, length).ljust(length, b"\0")
    if header.compression_type != "zlib":
        return None
    whole = _unpacked(image, header, unit.place & (_COMPRESSED - 1))
    index = unit.place >> 64
    return whole[index * length : (index + 1) * length]


def _unpacked(image: Image, header: Header, entry: int) -> bytes:
    """Return the content of a compressed cluster (docs/interop/qcow2.txt, "Compressed Clusters Descriptor")."""
    shift = 62 - (header.cluster_bits - 8)
    offset = entry & (1 << shift) - 1
    sectors = entry >> shift
    packed = image.read_at(offset, (sectors + 1) * _SECTOR - offset % _SECTOR)
    try:
        data = zlib.decompressobj(-12).decompress(packed, header.cluster_size)
    except zlib.error as error:
        raise DamagedImage(f"{image.path}: The compressed cluster at byte {offset} cannot be read: {error}.") from error
    if len(data) < header.cluster_size:
        raise DamagedImage(f"{image.path}: The compressed cluster at byte {offset} is too short.")
    return data


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    last: Run | None = None
    for run in runs:
        if last is not None and last.offset + last.length == run.offset:
            last = Run(last.offset, last.length + run.length)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last
