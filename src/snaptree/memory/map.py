"""Which slot each page of a snapshot has.  Not for: the index's bytes, or reading pages' content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged
from .index import IndexHeader, Kind, Root, counts_of, kinds_of, slots_of
from .pages import LEAF, PAGE, Layout, Pages, Slots, chunks, distinct, layout_pages
from .segments import Segments

_LEAVES_MAX: Final = 4096
"""Leaves kept in memory: 16 MiB."""
CHUNK: Final = 256
"""Leaves that are looked at together: 1 MiB of slots."""


class Leaves:
    """The leaves of all snapshots, by entry: equal entries are the same leaf."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._kept: OrderedDict[int, NDArray[np.uint32]] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Forget all: slots that were freed may come to hold something else."""
        with self._lock:
            self._kept.clear()

    def tables(self, entries: Root, *, checked: bool = True) -> NDArray[np.uint32]:
        """Return the slots of leaves, of the shape (len(entries), LEAF): 0 where a page is zero.

        :param checked: verify that as many pages are stored as the entries say.
        :raises PagesDamaged: where a leaf or a segment is damaged.
        """
        found = np.zeros((len(entries), LEAF), np.uint32)
        missing = []
        with self._lock:
            for position, entry in enumerate(entries.tolist()):
                kept = self._kept.get(entry) if checked else None
                if kept is not None:
                    found[position] = kept
                    self._kept.move_to_end(entry)
                elif entry:
                    missing.append(position)
        if missing:
            places = np.array(missing)
            found[places] = fresh = self._read(entries[places])
            if checked:
                wrong = np.flatnonzero(np.count_nonzero(fresh, axis=1) != counts_of(entries[places]))
                if len(wrong):
                    slot = int(slots_of(entries[places])[wrong[0]])
                    path = self._segments.path(self._segments.find(slot))
                    raise PagesDamaged(f"{path}: A leaf at page {slot:#x} of the store has lost or gained pages.")
                self._keep(entries[places].tolist(), fresh)
        return found

    def _keep(self, entries: list[int], tables: NDArray[np.uint32]) -> None:
        with self._lock:
            for entry, table in zip(entries, tables, strict=True):
                self._kept[entry] = table.copy()
            while len(self._kept) > _LEAVES_MAX:
                self._kept.popitem(last=False)

    def _read(self, entries: Root) -> NDArray[np.uint32]:
        found = np.zeros((len(entries), LEAF), np.uint32)
        kinds, slots = kinds_of(entries), slots_of(entries)
        tables = np.flatnonzero(kinds == Kind.TABLE)
        if len(tables):
            content = np.empty((len(tables), PAGE), np.uint8)
            self._segments.read(slots[tables], content)
            found[tables] = content.view("<u4")
        for position in np.flatnonzero(kinds == Kind.DENSE).tolist():
            # A leaf at the end of the layout may go beyond the segment.
            first = int(slots[position])
            range = self._segments.find(first)
            run = np.arange(first, min(first + LEAF, sum(range)), dtype=np.int64)
            found[position, : len(run)] = np.where(self._segments.checksums(run) != 0, run, 0)
        return found


class PageMap:
    """The pages of one snapshot.

    :ivar id: the snapshot's.
    :ivar base: the snapshot that it shares pages with; ``None`` where it began with none.
    :ivar root: one entry for each leaf.
    """

    def __init__(self, header: IndexHeader, root: Root, leaves: Leaves) -> None:
        self.id = header.id
        self.layout: Layout = header.layout
        self.base = header.base
        self.root = root
        self._own = header.own
        self._leaves = leaves

    def is_own(self, slots: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say of each slot whether it was written for this snapshot: then only those that began with it share it."""
        first, count = self._own
        return np.asarray((slots >= first) & (slots < first + count), np.bool_)

    @property
    def pages(self) -> int:
        """Pages of RAM."""
        return layout_pages(self.layout)

    @property
    def stored_count(self) -> int:
        """How many pages are stored, that is, not zero."""
        return int(counts_of(self.root).sum())

    def tables(self, leaves: Pages, *, checked: bool = True) -> NDArray[np.uint32]:
        """Return the slots of whole leaves, of the shape (len(leaves), LEAF).

        :raises PagesDamaged: where the store is damaged there.
        """
        found = self._leaves.tables(self.root[leaves], checked=checked)
        beyond = self.pages - (len(self.root) - 1) * LEAF
        if found[leaves == len(self.root) - 1, beyond:].any():
            raise PagesDamaged(f"The last leaf of snapshot {self.id} has pages behind the end of RAM.")
        return found

    def slots(self, pages: Pages) -> Slots:
        """Return each page's slot: 0 exactly where the page is zero.

        :raises IndexError: where a page is not one of the layout's.
        :raises PagesDamaged: where the store is damaged there.
        """
        if len(pages) and (int(pages.min()) < 0 or int(pages.max()) >= self.pages):
            raise IndexError(f"not pages of {self.pages}")
        found = np.empty(len(pages), np.uint32)
        start = 0
        which = pages // LEAF
        for leaves in chunks(distinct(which), CHUNK):
            tables = self.tables(leaves)
            if len(pages) and (np.diff(which) >= 0).all():
                end = int(np.searchsorted(which, leaves[-1], "right"))
                here: slice | NDArray[np.int64] = slice(start, end)
                start = end
            else:
                here = np.flatnonzero((which >= leaves[0]) & (which <= leaves[-1]))
            found[here] = tables[np.searchsorted(leaves, which[here]), pages[here] % LEAF]
        return found

    def differing(self, other: PageMap) -> Pages:
        """Return, ascending, the pages whose slots differ.  Only those can differ in content.

        :raises ValueError: where the layouts differ.
        :raises PagesDamaged: where the store is damaged there.
        """
        if self.layout != other.layout:
            raise ValueError("maps of different layouts")
        found = [np.empty(0, np.int64)]
        for leaves in chunks(np.flatnonzero(self.root != other.root), CHUNK):
            rows, columns = np.nonzero(self.tables(leaves) != other.tables(leaves))
            found.append(leaves[rows] * LEAF + columns)
        return np.concatenate(found)

    def stored(self) -> Iterator[Pages]:
        """Yield, ascending, the pages that are not zero: those of up to CHUNK leaves at a time.

        :raises PagesDamaged: where the store is damaged there.
        """
        for leaves in chunks(np.flatnonzero(self.root), CHUNK):
            rows, columns = np.nonzero(self.tables(leaves))
            yield leaves[rows] * LEAF + columns
