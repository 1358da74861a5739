"""Writing one snapshot's pages and its index.  Not for: reading, deleting, or which pages to write.

The segment is written under a staged name.  A commit then makes both files durable, renames the segment, and renames
the index: from that moment the snapshot is there.  The staged index is on the disk before the segment has its name, so
a segment whose snapshot never came to be can be told: its staged index is still there.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PageStoreError
from . import disk
from .index import INDEX, STAGED, IndexHeader, Kind, Root, encode_header, encode_root, entries, parse_header
from .map import CHUNK, PageMap
from .pages import (
    LEAF,
    PAGE,
    Bytes,
    Layout,
    Pages,
    Slots,
    check_layout,
    checksums,
    chunks,
    layout_pages,
    leaves_of,
    runs,
    same,
)
from .segment import SegmentHeader, write_frame

if TYPE_CHECKING:
    from .store import PageStore

T = TypeVar("T")
Scalar = TypeVar("Scalar", np.uint8, np.uint32)

_PART: Final = 1024
"""Pages that are worked on together: 4 MiB stay in the processor's cache."""
_SAME, _ZERO, _NEW = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Written:
    """What a commit has written.

    :param new_pages: pages that were stored.
    :param same_pages: pages that were put and are as in the base.
    :param zero_pages: pages that were put and are zero, and were not so in the base.
    :param bytes: the length of what was written to files, pages and all else.
    """

    new_pages: int
    same_pages: int
    zero_pages: int
    bytes: int


class Writer:
    """A snapshot that is being written.  For one thread.

    Where a put or a commit fails, everything is as before the write began, and the writer is of no use any more.
    """

    def __init__(self, store: PageStore, id: str, base: PageMap | None, layout: Layout) -> None:
        check_layout(layout)
        if base is not None and base.layout != layout:
            raise ValueError(f"the base {base.id} has another layout of RAM")
        self._store = store
        self._id = id
        self._staged_segment = store.path(id, f".pages{STAGED}")
        self._staged_index = store.path(id, INDEX + STAGED)
        self._base = base
        self._layout = layout
        self._pages = layout_pages(layout)
        leaves = leaves_of(self._pages)
        self._flat = base is None
        most = self._pages if self._flat else self._pages + leaves
        self._first = store.segments.room(most, store.lost())
        self._next = self._first + (self._pages if self._flat else 0)
        self._slots = _sparse(leaves * LEAF, np.uint32).reshape(leaves, LEAF)
        self._before = _sparse(leaves * LEAF, np.uint32).reshape(leaves, LEAF)
        self._loaded = np.zeros(leaves, np.bool_)
        self._checksums = _sparse(most, np.uint32)
        self._state = _sparse(leaves * LEAF, np.uint8).reshape(leaves, LEAF)
        self._abandoned = np.empty(0, np.uint32)
        self._scratch: Bytes | None = None
        self._fd = -1
        self._open = True

    @property
    def base_id(self) -> str | None:
        """The base's id."""
        return None if self._base is None else self._base.id

    def put(self, pages: Pages, content: Bytes) -> None:
        """Take the content of these pages, in place of what was put before.

        :param pages: ascending, each once.
        :param content: of the shape (len(pages), PAGE), contiguous; it is not kept.
        :raises PagesDamaged: where a segment of the base is missing or cut.
        :raises PageStoreError: where it cannot be written, the disk is full for example.
        :raises ValueError: where ``pages`` are not so.
        """
        if content.shape != (len(pages), PAGE) or content.dtype != np.uint8 or not content.flags.c_contiguous:
            raise ValueError("content is not that of these pages")
        if len(pages) and (pages[0] < 0 or pages[-1] >= self._pages or (np.diff(pages) <= 0).any()):
            raise ValueError("pages are not ascending, or behind the end of RAM")
        self._guarded(lambda: self._put_all(pages, content))

    def flush(self) -> None:
        """Write back what was put so far, so that little is left to do for a commit.

        Nor for anybody else who flushes a file of this file system meanwhile: ext4's journal takes all along.

        :raises PageStoreError: where it cannot be written.
        """
        if self._fd >= 0:
            self._guarded(lambda: disk.sync(self._fd))

    def commit(self) -> Written:
        """Make the snapshot: when this returns it is there and durable.

        :raises PageStoreError: where it cannot be written; nothing of it is there then.
        """
        return self._guarded(self._commit)

    def abort(self) -> None:
        """Drop everything that was put.  After a commit, or a second time, nothing is done."""
        if not self._open:
            return
        self._end()
        disk.unlink(self._staged_segment)
        disk.unlink(self._staged_index)

    def _end(self) -> None:
        self._open = False
        self._store.writing = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _guarded(self, action: Callable[[], T]) -> T:
        if not self._open:
            raise ValueError("this write has ended")
        try:
            with disk.failing("Pages cannot be written", self._store.directory):
                return action()
        except PageStoreError:
            self.abort()
            raise

    def _put_all(self, pages: Pages, content: Bytes) -> None:
        for start in range(0, len(pages), _PART):
            self._put(pages[start : start + _PART], content[start : start + _PART])

    def _put(self, pages: Pages, content: Bytes) -> None:
        self._load(np.unique(pages // LEAF))
        slots, before = self._slots.reshape(-1), self._before.reshape(-1)
        sums = checksums(content)
        mine, base = slots[pages], before[pages]
        as_base = self._as_base(base, sums, content)
        zero = (sums == 0) & ~as_base
        new = ~(as_base | zero)
        owned = (mine >= self._first) & (mine < self._next)
        slots[pages[as_base]] = base[as_base]
        slots[pages[zero]] = 0
        self._abandon(mine[owned & ~new])
        fresh = new & ~owned
        mine[fresh] = self._new_slots(pages[fresh])
        slots[pages[fresh]] = mine[fresh]
        rows = np.flatnonzero(new)
        self._store_pages(mine[new], rows, content)
        self._checksums[mine[new].astype(np.int64) - self._first] = sums[new]
        self._state.reshape(-1)[pages] = np.where(as_base, _SAME, np.where(zero, _ZERO, _NEW))

    def _load(self, leaves: Pages) -> None:
        """Copy the base's slots of these leaves, once."""
        missing = leaves[~self._loaded[leaves]]
        for part in chunks(missing, CHUNK):
            if self._base is not None:
                self._before[part] = self._slots[part] = self._base.tables(part)
            self._loaded[part] = True

    def _as_base(self, base: Slots, sums: Slots, content: Bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Say of each page whether it is as in the base."""
        equal = (self._store.segments.checksums(base) == sums) & ((sums != 0) == (base != 0))
        doubtful = np.flatnonzero(equal & (sums != 0))
        if len(doubtful):
            if self._scratch is None:  # kept, since fresh memory is slow at its first touch
                self._scratch = np.empty((_PART, PAGE), np.uint8)
            there = self._scratch[: len(doubtful)]
            # Unchecked: what is equal to content with the right checksum is right.
            self._store.segments.read_unchecked(base[doubtful], there)
            equal[doubtful] = same(there, content if len(doubtful) == len(content) else content[doubtful])
        return np.asarray(equal, np.bool_)

    def _new_slots(self, pages: Pages) -> Slots:
        if self._flat:
            return (self._first + pages).astype(np.uint32)
        count = min(len(pages), self._first + self._pages - self._next)
        fresh = np.arange(self._next, self._next + count).astype(np.uint32)
        self._next += count
        again, self._abandoned = np.split(self._abandoned, [len(pages) - count])
        return np.concatenate([fresh, again])

    def _file(self) -> int:
        if self._fd < 0:
            self._fd = disk.create(self._staged_segment)
        return self._fd

    def _store_pages(self, slots: Slots, rows: Pages, content: Bytes) -> None:
        """Write rows of content to slots of our own."""
        order = np.argsort(slots, kind="stable")
        places = slots[order].astype(np.int64) - self._first
        for first, buffers in disk.batches(places, rows[order], content):
            disk.write_all(self._file(), buffers, PAGE + first * PAGE)

    def _abandon(self, slots: Slots) -> None:
        """Free slots of our own that hold nothing any more; they are taken again where there would be no others."""
        places = np.sort(slots).astype(np.int64) - self._first
        self._checksums[places] = 0
        self._abandoned = np.concatenate([self._abandoned, slots])
        for start, end in runs(places):
            disk.punch(self._file(), PAGE + int(places[start]) * PAGE, (end - start) * PAGE)

    def _commit(self) -> Written:
        trace, store = self._store.trace, self._store
        root = self._make_root()
        count = self._next - self._first
        segment = None
        if self._fd >= 0 and self._checksums[:count].any():
            segment = SegmentHeader(self._first, count, self._flat, self._id)
            write_frame(self._fd, segment, self._checksums)
            disk.sync(self._fd)
            trace("pages.segment-synced")
        elif self._fd >= 0:
            disk.unlink(self._staged_segment)
        data = encode_header(
            self._id, self.base_id, self._layout, (0, 0) if segment is None else (segment.first, count)
        )
        header = parse_header(data)
        data += encode_root(root)
        disk.write_file(self._staged_index, data)
        disk.sync_directory(store.directory)
        trace("pages.staged")
        self._rename(segment, header)
        self._end()
        size = 0 if segment is None else PAGE + 4 * count + PAGE * int(np.count_nonzero(self._checksums[:count]))
        _, same, zero, new = np.bincount(self._state[self._loaded].reshape(-1), minlength=4).tolist()
        return Written(new, same, zero, size + len(data))

    def _rename(self, segment: SegmentHeader | None, header: IndexHeader) -> None:
        store, index = self._store, self._store.path(self._id)
        path = None if segment is None else store.directory / segment.name
        try:
            if path is not None:
                disk.rename(self._staged_segment, path)
                disk.sync_directory(store.directory)
                store.trace("pages.segment-committed")
            disk.rename(self._staged_index, index)
            disk.sync_directory(store.directory)
            store.trace("pages.index-committed")
        except OSError:
            disk.unlink(index)
            if path is not None:
                disk.unlink(path)
            raise
        if segment is not None:
            store.segments.add((segment.first, segment.count))
        store.headers[self._id] = header

    def _make_root(self) -> Root:
        """Return the root; write the tables of changed leaves."""
        root = np.zeros(len(self._loaded), np.uint64) if self._base is None else self._base.root.copy()
        kept = [np.empty(0, np.int64)]
        for part in chunks(np.flatnonzero(self._loaded), CHUNK):
            leaves = part[(self._slots[part] != self._before[part]).any(axis=1)]
            slots = self._slots[leaves]
            counts = np.count_nonzero(slots, axis=1)
            root[leaves] = 0
            if self._flat:
                dense, first = counts > 0, self._first + leaves * LEAF
            else:
                first = slots[:, 0].astype(np.int64)
                run = slots - slots[:, :1] == np.arange(LEAF, dtype=np.uint32)
                dense = (counts == LEAF) & run.all(axis=1) & (first >= self._first) & (first < self._next)
            root[leaves[dense]] = entries(Kind.DENSE, counts[dense], first[dense])
            kept.append(leaves[(counts > 0) & ~dense])
        tables = np.concatenate(kept)
        for leaves in chunks(tables, CHUNK):
            content = np.ascontiguousarray(self._slots[leaves].astype("<u4")).view(np.uint8)
            places = np.arange(self._next, self._next + len(leaves), dtype=np.int64)
            self._store_pages(places.astype(np.uint32), np.arange(len(leaves)), content)
            self._checksums[places - self._first] = checksums(content)
            root[leaves] = entries(Kind.TABLE, np.count_nonzero(self._slots[leaves], axis=1), places)
            self._next += len(leaves)
        return root


def _sparse(count: int, kind: type[Scalar]) -> NDArray[Scalar]:
    """Return zeros that take memory only where they are touched, so that what a small delta needs is small.

    numpy's own zeros do so only while malloc takes them afresh from the kernel, and then asks for huge pages.
    """
    return np.frombuffer(mmap.mmap(-1, max(1, count) * np.dtype(kind).itemsize), kind, count)
