"""The index of a snapshot's pages, from bytes to values and back.  Not for: files, or the leaves that it points to.

An index holds one entry for each leaf of 1,024 pages: what kind it is, how many pages of it are stored, and a slot.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged, PageStoreError
from ..model.ids import NIL
from .pages import LEAF, Layout, RAMBlock, check_layout, layout_pages, leaves_of

MAGIC: Final = b"snaptidx"
VERSION: Final = 1
HEADER_MAX: Final = 1 << 17
"""More than 256 blocks with names of 255 bytes take."""
INDEX_MAX: Final = HEADER_MAX + 8 * 2**21 + 4
"""More bytes than the index of any layout takes."""

INDEX: Final = ".index"
"""The end of an index's file name, behind the id: a snapshot."""
DELETING: Final = ".deleting"
"""That of one whose pages are being freed: it is no snapshot any more."""
FREED: Final = ".freed"
"""That of one whose pages are freed, and whose children may still name it as their base."""
STAGED: Final = ".tmp"
"""The end of the name of everything that is being written."""

_HEAD = struct.Struct("<8sII16s16sIII")
"""Magic, version, bytes of the header with its checksum, id, base, first slot and number of its own slots, blocks."""
_BLOCK = struct.Struct("<QB")
"""Size in bytes, bytes of the name, which follows."""
_CRC = struct.Struct("<I")
_BASE_AT: Final = 32

Root: TypeAlias = NDArray[np.uint64]


class NewerVersion(PageStoreError):
    """A file of the page store was written by a newer snaptree."""


class Kind(IntEnum):
    """What an entry says about its leaf."""

    ZERO = 0
    """All pages are zero; the slot is 0."""
    TABLE = 1
    """The page at the slot holds the slots of the leaf's pages, as 32-bit little-endian numbers."""
    DENSE = 2
    """Page i of the leaf is at slot + i, if the store has a checksum there, and else is zero."""


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What an index says about itself.

    :param id: the snapshot's.
    :param base: the id of the snapshot whose pages it shares; ``None`` where it began with none.
    :param own: first slot and number of slots of the segment that was written for it; (0, 0) where there is none.
    :param size: bytes of the header: there the root begins.
    """

    id: str
    base: str | None
    layout: Layout
    own: tuple[int, int]
    size: int

    @property
    def leaves(self) -> int:
        """Entries of the root."""
        return leaves_of(layout_pages(self.layout))

    @property
    def file_size(self) -> int:
        """Bytes of the whole index."""
        return self.size + self.leaves * 8 + _CRC.size


def entries(kind: Kind, counts: NDArray[np.integer], slots: NDArray[np.integer]) -> Root:
    """Return entries of one kind: kind in bits 48-63, the number of stored pages in bits 32-47, the slot below."""
    upper = np.uint64(kind) << np.uint64(48) | counts.astype(np.uint64) << np.uint64(32)
    return np.asarray(upper | slots.astype(np.uint64), np.uint64)


def kinds_of(root: Root) -> NDArray[np.int64]:
    """Return each entry's kind."""
    return (root >> np.uint64(48)).astype(np.int64)


def counts_of(root: Root) -> NDArray[np.int64]:
    """Return how many pages of each leaf are stored."""
    return (root >> np.uint64(32) & np.uint64(0xFFFF)).astype(np.int64)


def slots_of(root: Root) -> NDArray[np.int64]:
    """Return each entry's slot."""
    return (root & np.uint64(0xFFFFFFFF)).astype(np.int64)


def encode_header(id: str, base: str | None, layout: Layout, own: tuple[int, int]) -> bytes:
    """Return the bytes of a header."""
    check_layout(layout)
    blocks = b"".join(_BLOCK.pack(b.size, len(b.name.encode())) + b.name.encode() for b in layout)
    size = -(-(_HEAD.size + len(blocks) + _CRC.size) // 8) * 8
    head = _HEAD.pack(MAGIC, VERSION, size, uuid.UUID(id).bytes, uuid.UUID(base or NIL).bytes, *own, len(layout))
    return _sealed((head + blocks).ljust(size - _CRC.size, b"\0"))


def encode_root(root: Root) -> bytes:
    """Return the bytes of a root, which follow the header's."""
    return _sealed(root.astype("<u8").tobytes())


def with_base(data: bytes, base: str | None) -> bytes:
    """Return a whole index with another base, and all else as it is, be it damaged or not.

    :raises PagesDamaged: as parse_header.
    """
    header = parse_header(data)
    head = data[:_BASE_AT] + uuid.UUID(base or NIL).bytes + data[_BASE_AT + 16 : header.size - _CRC.size]
    return _sealed(head) + data[header.size :]


def parse_header(data: bytes) -> IndexHeader:
    """Return what the header says that ``data`` begins with.

    :raises PagesDamaged: where it is cut or damaged.
    :raises NewerVersion: where its version is unknown.
    """
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise PagesDamaged("It is no index of pages.")
    _, version, size, id, base, *own, blocks = _HEAD.unpack_from(data)
    if not _HEAD.size + _CRC.size <= size <= min(HEADER_MAX, len(data)):
        raise PagesDamaged(f"Its header of {size} bytes is not whole.")
    if not _is_sealed(data[:size]):
        raise PagesDamaged("Its header has the wrong checksum.")
    if version != VERSION:  # and no damage: every version has its size and checksum in the same place
        raise NewerVersion(f"It has the version {version}, and {VERSION} is the newest known here.", "Update snaptree.")
    layout = _layout(blocks, data[_HEAD.size : size - _CRC.size])
    base_id = _id(base)
    return IndexHeader(_id(id), None if base_id == NIL else base_id, layout, (own[0], own[1]), size)


def header_size(data: bytes) -> int:
    """Return how many bytes the header takes that ``data`` begins with, as it says itself; 0 where it is no header."""
    return int(_HEAD.unpack_from(data)[2]) if len(data) >= _HEAD.size else 0


@lru_cache(maxsize=16)  # a VM's snapshots commonly have one layout
def _layout(blocks: int, data: bytes) -> Layout:
    found, at = [], 0
    try:
        for _ in range(blocks):
            length, named = _BLOCK.unpack_from(data, at)
            at += _BLOCK.size + named
            if at > len(data):
                raise ValueError
            found.append(RAMBlock(data[at - named : at].decode(), length))
        check_layout(found)
    except (struct.error, ValueError):
        raise PagesDamaged("Its layout of RAM is none.") from None
    return tuple(found)


def _id(data: bytes) -> str:
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_root(header: IndexHeader, data: bytes) -> Root:
    """Return the root of a whole index.

    :raises PagesDamaged: where it is cut or damaged, or has entries that cannot be.
    """
    if len(data) != header.file_size:
        raise PagesDamaged(f"It has {len(data)} bytes, not {header.file_size}.")
    if not _is_sealed(data[header.size :]):
        raise PagesDamaged("Its root has the wrong checksum.")
    root = np.frombuffer(data, "<u8", header.leaves, header.size).astype(np.uint64)
    kinds, counts, slots = kinds_of(root), counts_of(root), slots_of(root)
    pages = np.full(header.leaves, LEAF)
    pages[-1] = layout_pages(header.layout) - LEAF * (header.leaves - 1)
    stored = (kinds == Kind.TABLE) | (kinds == Kind.DENSE)
    right = np.where(stored, (counts > 0) & (counts <= pages) & (slots > 0), root == 0)
    right &= (kinds != Kind.DENSE) | (slots + pages <= 2**32)
    if not right.all():
        wrong = int(np.flatnonzero(~right)[0])
        raise PagesDamaged(f"Its entry {wrong} cannot be {int(root[wrong]):#x}.")
    root.flags.writeable = False
    return root


def _sealed(data: bytes) -> bytes:
    return data + _CRC.pack(zlib.crc32(data))


def _is_sealed(data: bytes) -> bool:
    return len(data) >= _CRC.size and _CRC.pack(zlib.crc32(data[: -_CRC.size])) == data[-_CRC.size :]
