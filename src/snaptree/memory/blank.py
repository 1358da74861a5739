"""Parts of guest RAM that have had no memory yet: nothing was written there.  Not for: what was written elsewhere.

A page without memory counts as written for PAGEMAP_SCAN, and beginning anew with it takes a page table and time at
every scan from then on.  So such parts are not scanned: as long as the file has no memory there, the page is what it
was, zero.  Where it has some at last, all pages there that have some count as written once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .access import Access
from .pages import PAGE
from .ranges import Pages, Ranges, to_ranges

BLOCK_PAGES = (16 << 20) // PAGE
"""So many are looked at together.  Smaller ones would save page tables and cost calls."""


_NONE: Ranges = np.empty((0, 2), np.int64)


class Blank:
    """Which blocks of one region have had no memory since :meth:`begin`; before it, none counts as such.

    :param access: of the region; one that can't tell has memory everywhere.
    """

    def __init__(self, access: Access, pages: int) -> None:
        self._access = access
        self._pages = pages
        self._blank = np.zeros(-(-pages // BLOCK_PAGES), np.bool_)
        self._begun = False
        self._spans: list[list[int]] | None = None  # of blank blocks, and the other pages; while they are the same
        self._others: Ranges | None = None

    def begin(self) -> None:
        """Find the blocks that have no memory now; again does nothing."""
        if not self._begun:
            self._begun = True
            self._blank[:] = True
            self._changed()
            self._blank[self._filled()] = False
            self._changed()

    def filled(self) -> tuple[Ranges, Ranges]:
        """Return the blocks that have memory now and had none, and the pages in them that have it."""
        filled = self._filled()
        if not filled:
            return _NONE, _NONE
        blocks = self._ranges(filled)
        pages = [self._access.populated(first, last) for first, last in blocks.tolist()]
        return blocks, np.concatenate([_NONE, *pages])

    def forget(self, blocks: Ranges) -> None:
        """Take these blocks for blank no more."""
        self._blank[blocks[:, 0] // BLOCK_PAGES] = False
        self._changed()

    def under(self, pages: Pages) -> Ranges:
        """Return the blank blocks that hold some of these pages, and have no memory still."""
        blocks = np.unique(pages // BLOCK_PAGES)
        blocks = blocks[self._blank[blocks]]
        return self._ranges(np.setdiff1d(blocks, self._filled()) if len(blocks) else blocks)

    def others(self) -> Ranges:
        """Return the pages that are in no blank block."""
        if self._others is None:
            found = to_ranges(np.flatnonzero(~self._blank)) * BLOCK_PAGES
            self._others = np.minimum(found, self._pages)
        return self._others

    def _changed(self) -> None:
        self._spans = self._others = None

    def _filled(self) -> list[int]:
        found = []
        if self._spans is None:
            self._spans = to_ranges(np.flatnonzero(self._blank)).tolist()
        for first, last in self._spans:
            at = first
            while at < last:
                at = self._access.next_populated(at * BLOCK_PAGES) // BLOCK_PAGES
                if at < last:
                    found.append(at)
                    at += 1
        return found

    def _ranges(self, blocks: ArrayLike) -> Ranges:
        firsts = np.asarray(blocks, np.int64) * BLOCK_PAGES
        return np.stack((firsts, np.minimum(firsts + BLOCK_PAGES, self._pages)), axis=1)
