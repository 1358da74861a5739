"""Where virtual space lies in a qcow2 image: L1 and L2 tables, from bytes.  Not for: reading them or the data."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .errors import DamagedImage, UnsupportedImage
from .header import Header

# QEMU's block/qcow2.h: L1E_OFFSET_MASK and L2E_OFFSET_MASK, QCOW_OFLAG_COMPRESSED, QCOW_OFLAG_ZERO
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1

_SUBCLUSTERS = 32


class Extent(NamedTuple):
    """A run of virtual space: ``length`` bytes from byte ``host_offset`` of the image, or zeros where it is None."""

    host_offset: int | None
    length: int


def parse_l1(data: bytes) -> tuple[int, ...]:
    """Return the L1 entries in ``data``, each as the host offset of its L2 table, 0 where there is none.

    The COPIED flag and the reserved bits are dropped.
    """
    return tuple(entry & OFFSET_MASK for entry in struct.unpack(f">{len(data) // 8}Q", data))


def same_state(active: Sequence[int], snapshot: Sequence[int]) -> bool:
    """Say whether two L1 tables, as parse_l1 gives them, map the same; a shorter one goes on with zeros.

    A snapshot shares its L2 tables with the active state, and QEMU copies a shared table before it changes it.
    So they are equal exactly while nothing was written since the snapshot was taken or loaded.  Where the image
    holds VM state, the entries behind the disk are to be left out: QEMU discards the VM state from the active
    table once the snapshot is taken, and brings it back with a load.
    """
    both = min(len(active), len(snapshot))
    return tuple(active[:both]) == tuple(snapshot[:both]) and not any(active[both:]) and not any(snapshot[both:])


def check_host_offset(header: Header, what: str, offset: int) -> int:
    """Return ``offset`` where a cluster can begin there.

    :raises DamagedImage: where it cannot.
    """
    if offset % header.cluster_size:
        raise DamagedImage(f"An {what} entry points to byte {offset}, which is no cluster's start.")
    return offset


def parse_l2(header: Header, data: bytes, skip: int, length: int) -> list[Extent]:
    """Return where ``length`` bytes of virtual space lie, from ``skip`` bytes into the first cluster on.

    :param data: the L2 entries of the clusters from the first one on, at least as many as are needed.
    :raises UnsupportedImage: where a cluster is compressed.
    :raises DamagedImage: where an entry is impossible.
    """
    found: list[Extent] = []
    for host_offset, unit in _units(header, data):
        if skip >= unit:
            skip -= unit
            continue
        size = min(unit - skip, length)
        start = None if host_offset is None else host_offset + skip
        if found and _follows(found[-1], start):
            found[-1] = Extent(found[-1].host_offset, found[-1].length + size)
        else:
            found.append(Extent(start, size))
        skip = 0
        length -= size
        if not length:
            break
    return found


def _follows(last: Extent, start: int | None) -> bool:
    """Say whether a run that begins at ``start`` goes on where ``last`` ends."""
    if last.host_offset is None or start is None:
        return last.host_offset is start
    return last.host_offset + last.length == start


def _units(header: Header, data: bytes) -> Iterator[tuple[int | None, int]]:
    """Yield each cluster's, or with extended L2 entries each subcluster's, place (None: zeros) and size."""
    cluster_size = header.cluster_size
    if not header.extended_l2:
        for (entry,) in struct.iter_unpack(">Q", data):
            offset = _cluster_offset(header, entry)
            yield (None if entry & _ZERO or not offset else offset), cluster_size
        return
    unit = cluster_size // _SUBCLUSTERS
    for entry, bitmap in struct.iter_unpack(">QQ", data):
        offset = _cluster_offset(header, entry)
        allocated, zero = bitmap & 0xFFFF_FFFF, bitmap >> 32
        if allocated & zero or (allocated and not offset):
            raise DamagedImage(f"An L2 entry has the impossible subcluster bitmap {bitmap:#018x}.")
        for index in range(_SUBCLUSTERS):
            yield (offset + index * unit if allocated >> index & 1 else None), unit


def _cluster_offset(header: Header, entry: int) -> int:
    """Return the host offset that an L2 entry holds."""
    if entry & _COMPRESSED:
        raise UnsupportedImage("A cluster is compressed; QEMU writes VM state uncompressed only.")
    return check_host_offset(header, "L2", entry & OFFSET_MASK)
