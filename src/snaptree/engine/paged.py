"""The RAM of a running VM whose snapshots are kept in pages: what has been written since which of them.  Not for: QEMU.

Everything here blocks and belongs to the one operation that holds the VM's lock; none of it that takes long runs in the
event loop.
"""

from __future__ import annotations

import numpy as np

from ..memory.pages import Bytes, Pages, RAMBlock
from ..memory.ram import GuestRAM, new_content
from ..memory.ranges import to_pages
from ..memory.store import PageStore
from ..memory.tracker import MANY, Tracker

CHUNK_PAGES = 1024
"""So many pages are moved at a time: 4 MiB, less than a millisecond in which the event loop may have to wait."""
STAGED_PAGES = 5120
"""20 MiB, touched once and for all: fresh memory costs up to 10 µs a page at its first touch, in the pause."""

NONE: Pages = np.empty(0, np.int64)


class PagedRAM:
    """Guest RAM, its tracker and its page store.

    What is known at any moment: every page that differs from the snapshot ``base`` is pending, or marked as written by
    the tracker.  Without a base nothing is known, and every page may differ.

    :ivar layout: its blocks.
    :ivar base: a snapshot in the store; ``None`` where there is none that RAM can be told to be like.
    :ivar holes: the VM has a device by which the guest gives RAM back (a balloon): pages become zero without a mark.
    :ivar others_fault: others than QEMU's threads bring pages of RAM in (KVM), so that its faults do not tell.
    :ivar has_run: the guest may have run in this QEMU; until then no pause has to be short.
    :ivar staging: room for the content of pages in a pause, once :meth:`reserve` was called.
    :ivar kept: likewise, for what was in pages that are overwritten, to be put back where QEMU then changes nothing.
    """

    def __init__(self, ram: GuestRAM, tracker: Tracker, store: PageStore) -> None:
        self.ram = ram
        self.tracker = tracker
        self.store = store
        self.layout = tuple(RAMBlock(region.block, region.size) for region in ram.regions)
        self.base: str | None = None
        self.holes = False
        self.others_fault = True
        self.has_run = True
        self.staging: Bytes = new_content(0)
        self.kept: Bytes = new_content(0)
        self._pending: Pages = NONE

    def reserve(self) -> None:
        """Make room in ``staging`` and ``kept``; not in a pause, and not before the guest has run."""
        if self.has_run and not len(self.staging):
            self.staging, self.kept = _touched(STAGED_PAGES), _touched(STAGED_PAGES)

    def leave(self) -> None:
        """Let go of RAM in a process that was forked: else it would stay for as long as that lives."""
        self.ram.close()
        self.staging = self.kept = new_content(0)

    @property
    def pending(self) -> Pages:
        """The pages that were written since ``base`` and are marked no more."""
        return self._pending

    def add_pending(self, pages: Pages) -> None:
        """Note that pages may differ from ``base``, whose marks are gone."""
        if self.base is not None and len(pages):
            self._pending = np.union1d(self._pending, pages)

    def settle(self, id: str | None) -> None:
        """Say that RAM is exactly the snapshot ``id``, but for pages that are marked."""
        self.base = id
        self._pending = NONE

    def forget(self, id: str) -> None:
        """Prepare for the deletion of a snapshot from the store: what is known is told by its base."""
        if self.base != id:
            return
        above = self.store.base(id)
        if above is None or not self.fits(above):
            self.settle(None)
            return
        pages = self.store.map(above).differing(self.store.map(id))
        self.base = above
        self.add_pending(pages)

    def fits(self, id: str) -> bool:
        """Say whether the store has the pages of a snapshot, and they are of RAM like this."""
        return self.store.has(id) and self.store.map(id).layout == self.layout

    def arm(self) -> None:
        """Forget what was written so far.  The VM stands still."""
        self.tracker.arm(holes=self.holes)

    def take(self, *, beside_qemu: bool = False) -> Pages:
        """Return what was written since the last time, note it as pending, and arm anew.  The VM stands still.

        :param beside_qemu: QEMU is at work meanwhile, and needs a core.
        """
        taken = self.tracker.take(holes=self.holes, beside_qemu=beside_qemu)
        self.add_pending(taken)
        return taken

    def written_at_most(self) -> int:
        """Return how many pages may have been written since the last arm or take; 0: surely none, nor given back."""
        return MANY if self.holes or self.others_fault else self.tracker.written_at_most()

    def gather(self, pages: Pages, out: Bytes) -> None:
        """Copy pages as they are in RAM; where a page may be a hole it is not read, which would give it memory."""
        there = np.isin(pages, self.populated(), assume_unique=True) if self.holes else None
        if there is None or there.all():
            self.ram.gather(pages, out)
            return
        out[~there] = 0
        content = new_content(int(there.sum()))
        self.ram.gather(pages[there], content)
        out[there] = content

    def populated(self) -> Pages:
        """Return every page that takes up memory; the others are zero, and reading one would make it take up some."""
        return to_pages(self.ram.populated())

    def stored(self, id: str) -> Pages:
        """Return every page of a snapshot that is not surely zero."""
        parts = list(self.store.map(id).stored())
        return np.concatenate(parts) if parts else NONE


def _touched(pages: int) -> Bytes:
    content = new_content(pages)
    content.fill(1)
    return content


def without(pages: Pages, others: Pages) -> Pages:
    """Return the pages that are not among others; both ascend, none is there twice."""
    return np.asarray(np.setdiff1d(pages, others, assume_unique=True), np.int64)
