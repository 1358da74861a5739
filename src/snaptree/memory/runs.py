"""How to map a block of a snapshot's RAM from the store's files.  Not for: mapping it.

A fork, or a lazy resume, maps the flat image that the snapshot's line began with, and over it what has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import disk
from .index import Kind, kinds_of, slots_of
from .map import CHUNK, PageMap
from .pages import LEAF, PAGE, Pages, block_start, chunks, distinct

if TYPE_CHECKING:
    from .store import PageStore


@dataclass(frozen=True, slots=True)
class MapRun:
    """Pages of a block that lie one behind the other in one file.

    :param page_in_block: the first page, counted from the block's start.
    :param count: pages.
    :param path: the file; ``None`` for pages of zeros.
    :param file_offset: where the first page lies in it, in bytes, a multiple of PAGE.
    """

    page_in_block: int
    count: int
    path: Path | None
    file_offset: int

    def joined(self, other: MapRun) -> MapRun | None:
        """Return both as one, where ``other`` goes on where this one ends."""
        goes_on = other.path is None or other.file_offset == self.file_offset + self.count * PAGE
        if other.path != self.path or other.page_in_block != self.page_in_block + self.count or not goes_on:
            return None
        return MapRun(self.page_in_block, self.count + other.count, self.path, self.file_offset)


def runs(store: PageStore, map: PageMap, block: str) -> Iterator[MapRun]:
    """Yield the runs that make a block, each to be mapped over those before it; zero is what no run covers.

    The first is the whole block from the flat image, where the snapshot has one.  The others do not overlap.
    All of it stays right as long as the snapshot is not deleted, whatever else is.

    :raises KeyError: where the snapshot has no such block.
    :raises PagesDamaged: where the store is damaged.
    """
    start = block_start(map.layout, block)
    end = start + next(b.size for b in map.layout if b.name == block) // PAGE
    flat = _flat_first(store, map)
    if flat is not None:
        yield MapRun(0, end - start, store.segments.path((flat, map.pages)), PAGE + start * PAGE)
    last: MapRun | None = None
    for run in _over(store, map, start, end, flat):
        joined = None if last is None else last.joined(run)
        if joined is None and last is not None:
            yield last
        last = joined or run
    if last is not None:
        yield last


def _flat_first(store: PageStore, map: PageMap) -> int | None:
    """Return the first slot of the flat segment that some page of the snapshot lies in; ``None`` for none."""
    candidates = {first for first, count in store.segments.ranges if count == map.pages}
    for leaves in chunks(np.flatnonzero(map.root), CHUNK):
        entries = map.root[leaves]
        dense = kinds_of(entries) == Kind.DENSE
        found = set(distinct(slots_of(entries[dense]).astype(np.int64) - leaves[dense] * LEAF).tolist())
        if not found & candidates:
            tables = map.tables(leaves[~dense]).astype(np.int64)
            offsets = tables - (leaves[~dense, None] * LEAF + np.arange(LEAF))
            found = set(distinct(offsets[tables != 0]).tolist())
        for first in sorted(found & candidates):
            if store.segments.open((first, map.pages)).header.flat:
                return int(first)
    return None


def _over(store: PageStore, map: PageMap, start: int, end: int, flat: int | None) -> Iterator[MapRun]:
    """Yield what differs from the flat image, or from zeros where there is none."""
    for leaves in chunks(_other_leaves(store, map, start, end, flat), CHUNK):
        pages = (leaves[:, None] * LEAF + np.arange(LEAF)).reshape(-1)
        pages = pages[np.searchsorted(pages, start) : np.searchsorted(pages, end)]
        slots = map.slots(pages).astype(np.int64)
        if flat is None:
            over = slots != 0
        else:
            # What the flat image holds no checksum for is zero there, and stays so.
            filled = store.segments.checksums(flat + pages) != 0
            over = np.where(slots == 0, filled, slots != flat + pages)
        yield from _pieces(store, pages[over], slots[over], start)


def _other_leaves(store: PageStore, map: PageMap, start: int, end: int, flat: int | None) -> Pages:
    """Return the leaves of a block that are not surely, and as a whole, what the flat image or a zero is there."""
    leaves = np.arange(start // LEAF, -(-end // LEAF), dtype=np.int64)
    entries = map.root[leaves]
    kinds = kinds_of(entries)
    if flat is None:
        return np.asarray(leaves[kinds != Kind.ZERO], np.int64)
    same = (kinds == Kind.DENSE) & (slots_of(entries).astype(np.int64) == flat + leaves * LEAF)
    zero = np.flatnonzero(kinds == Kind.ZERO)
    # Where the image was made for this snapshot it holds nothing else.
    same[zero] = True if map.is_own(np.array([flat]))[0] else ~_filled(store, map, flat, leaves[zero])
    return np.asarray(leaves[~same], np.int64)


def _filled(store: PageStore, map: PageMap, flat: int, leaves: Pages) -> NDArray[np.bool_]:
    """Say of each of these leaves whether the flat image holds a page there."""
    segment = store.segments.open((flat, map.pages))
    found = np.zeros(len(leaves), np.bool_)
    windows = np.split(np.arange(len(leaves)), np.flatnonzero(np.diff(leaves // CHUNK)) + 1)
    for rows in windows if len(leaves) else []:
        first, last = int(leaves[rows[0]]), int(leaves[rows[-1]])
        sums = np.zeros((last + 1 - first, LEAF), np.uint32)
        count = min(sums.size, map.pages - first * LEAF)  # the last leaf may go beyond the image
        with disk.failing("Checksums cannot be read", segment.path):
            sums.reshape(-1)[:count] = segment.table(first * LEAF, count)
        found[rows] = np.asarray(sums.any(axis=1))[leaves[rows] - first]
    return found


def _pieces(store: PageStore, pages: Pages, slots: NDArray[np.int64], start: int) -> Iterator[MapRun]:
    if not len(pages):
        return
    apart = (np.diff(pages) != 1) | np.where(slots[1:] == 0, slots[:-1] != 0, np.diff(slots) != 1)
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(pages)]
    for first, end in pairwise(edges):
        page, slot = int(pages[first]) - start, int(slots[first])
        if not slot:
            yield MapRun(page, end - first, None, 0)
            continue
        for range, low, high in store.segments.split(slots[first:end]):
            offset = PAGE + (slot + low - range[0]) * PAGE
            yield MapRun(page + low, high - low, store.segments.path(range), offset)
