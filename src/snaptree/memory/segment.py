"""A segment: a file of stored pages with their checksums.  Not for: which segment a slot lies in, or who uses it."""

from __future__ import annotations

import os
import re
import stat
import struct
import uuid
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged
from . import disk
from .index import NewerVersion
from .pages import PAGE, Bytes, Pages, runs

MAGIC: Final = b"snaptseg"
VERSION: Final = 1
FLAT: Final = 1
"""Flag: the segment is an image of all RAM."""

_HEADER = struct.Struct("<8sIIIIQ16s")
"""Magic, version, flags, first slot, number of slots, where the checksums begin, the id of the snapshot it is for."""
_CRC = struct.Struct("<I")
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})\.pages")
_GAP: Final = 1024
_SPAN_BITS: Final = 18
"""Checksums are read through gaps of up to _GAP, at most 2^_SPAN_BITS (1 MiB) at once."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says about itself.

    :param first: its first slot, and ``count`` is how many it has.
    :param flat: it is an image of all RAM: page p is at the slot first + p.
    :param made_for: the id of the snapshot that it was written for.
    """

    first: int
    count: int
    flat: bool
    made_for: str

    @property
    def table(self) -> int:
        """Where the checksums begin, in bytes."""
        return PAGE + self.count * PAGE

    @property
    def file_size(self) -> int:
        """Bytes of the whole segment."""
        return self.table + self.count * 4

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.first:08x}-{self.count:08x}.pages"


def parse_name(name: str) -> tuple[int, int] | None:
    """Return the first slot and the number of slots that a segment's file name says; ``None`` for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    first, count = int(match[1], 16), int(match[2], 16)
    return (first, count) if first and count and first + count <= 2**32 else None


def encode_header(header: SegmentHeader) -> bytes:
    """Return the header's page."""
    flags = FLAT if header.flat else 0
    made_for = uuid.UUID(header.made_for).bytes
    head = _HEADER.pack(MAGIC, VERSION, flags, header.first, header.count, header.table, made_for)
    head = head.ljust(PAGE - _CRC.size, b"\0")
    return head + _CRC.pack(zlib.crc32(head))


def parse_header(data: bytes) -> SegmentHeader:
    """Return what a segment's first page says.

    :raises PagesDamaged: where it is cut or damaged.
    :raises NewerVersion: where its version is unknown.
    """
    if len(data) != PAGE or data[: len(MAGIC)] != MAGIC:
        raise PagesDamaged("It is no segment of pages.")
    _, version, flags, first, count, table, made_for = _HEADER.unpack_from(data)
    if data[-_CRC.size :] != _CRC.pack(zlib.crc32(data[: -_CRC.size])):
        raise PagesDamaged("Its header has the wrong checksum.")
    if version != VERSION:  # and no damage: every version has its checksum at the end of the page
        raise NewerVersion(f"It has the version {version}, and {VERSION} is the newest known here.", "Update snaptree.")
    header = SegmentHeader(first, count, bool(flags & FLAT), str(uuid.UUID(bytes=made_for)))
    if table != header.table:
        raise PagesDamaged("Its header contradicts itself.")
    return header


def write_frame(fd: int, header: SegmentHeader, checksums: NDArray[np.uint32]) -> None:
    """Write what stands around the pages: the header, and the checksums where there are any.  The rest are holes."""
    disk.write_all(fd, [encode_header(header)], 0)
    disk.truncate(fd, header.file_size)
    table = checksums[: header.count].astype("<u4", copy=False)
    for start in range(0, header.count, _GAP):
        part = table[start : start + _GAP]
        if part.any():
            disk.write_all(fd, [part.view(np.uint8).data], header.table + start * 4)


class Segment:
    """A segment's file, open.  Pages are numbered from its start here: index 0 is its first slot."""

    def __init__(self, path: Path, header: SegmentHeader, fd: int) -> None:
        self.path = path
        self.header = header
        self.fd = fd

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Open a segment, and make sure that it is whole in length and what its name says.

        :raises PagesDamaged: where it is missing, cut, or another.
        :raises NewerVersion: where its version is unknown.
        :raises OSError: where it cannot be read.
        """
        try:
            fd = disk.open_file(path)
        except FileNotFoundError:
            raise PagesDamaged(f"{path} is missing.") from None
        try:
            return cls(path, _header_of(path, fd), fd)
        except BaseException:
            os.close(fd)
            raise

    def __del__(self) -> None:
        # Whoever still reads it holds the object; so it is closed when the last one is done, and by nobody else.
        os.close(self.fd)

    def read(self, indices: Pages, rows: Pages, out: Bytes) -> None:
        """Read the pages at ascending ``indices`` into these rows of ``out``, unchecked."""
        for first, buffers in disk.batches(indices, rows, out):
            disk.read_into(self.fd, buffers, PAGE + first * PAGE, self.path)

    def checksums(self, indices: Pages) -> NDArray[np.uint32]:
        """Return the checksums of the pages at ascending ``indices``."""
        found = np.empty(len(indices), np.uint32)
        if not len(indices):
            return found
        spans = indices >> _SPAN_BITS
        apart = (indices[1:] - indices[:-1] > _GAP) | (spans[1:] != spans[:-1])
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(indices)]
        for start, end in pairwise(edges):
            low, high = int(indices[start]), int(indices[end - 1]) + 1
            found[start:end] = self.table(low, high - low)[indices[start:end] - low]
        return found

    def table(self, first: int, count: int) -> NDArray[np.uint32]:
        """Return the checksums of pages that lie one behind the other."""
        found = np.empty(count, np.dtype("<u4"))
        disk.read_into(self.fd, [found.view(np.uint8).data], self.header.table + first * 4, self.path)
        return found

    def free(self, indices: Pages) -> None:
        """Make the pages at ascending ``indices`` zero and give their space back.

        Their checksums remain; see :meth:`forget`, which may only follow when this is durable.
        """
        for start, end in runs(indices):
            disk.punch(self.fd, PAGE + int(indices[start]) * PAGE, (end - start) * PAGE)

    def forget(self, indices: Pages) -> None:
        """Take the checksums of freed pages away: these slots hold nothing then."""
        for start, end in runs(indices):
            offset, size = self.header.table + int(indices[start]) * 4, (end - start) * 4
            if size > 4 * PAGE:
                disk.punch(self.fd, offset, size)
            else:
                disk.write_all(self.fd, [bytes(size)], offset)

    def is_empty(self) -> bool:
        """Say whether no slot holds anything."""
        step = 1 << _SPAN_BITS
        for start in range(0, self.header.count, step):
            if self.table(start, min(step, self.header.count - start)).any():
                return False
        return True


def _header_of(path: Path, fd: int) -> SegmentHeader:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise PagesDamaged(f"{path} is no regular file.")
    try:
        header = parse_header(disk.read(fd, PAGE, 0))
    except (PagesDamaged, NewerVersion) as error:
        raise type(error)(f"{path}: {error.message}", error.remedy) from None
    if parse_name(path.name) != (header.first, header.count):
        raise PagesDamaged(f"{path} has another segment's name.")
    if status.st_size < header.file_size:
        raise PagesDamaged(f"{path} has {status.st_size} bytes of {header.file_size}: it was cut.")
    return header
