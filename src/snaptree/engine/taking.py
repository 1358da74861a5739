"""Taking a snapshot of RAM in pages, while the VM runs as far as can be.  Not for: device state and disks.

A short stop arms the tracker and takes the list of what was written; those pages are copied while the VM runs on; a
last stop takes what was written meanwhile.  Armed only while the VM stands still: a device that writes into RAM by
itself (O_DIRECT) would clear the mark first and write afterwards.
"""

from __future__ import annotations

import contextlib

import numpy as np

from ..memory.pages import PAGE, Pages, chunks
from ..memory.ram import new_content
from ..memory.writer import Writer, Written
from .paged import CHUNK_PAGES, NONE, STAGED_PAGES, PagedRAM, without

FEW_PAGES = 1024
"""So many are copied in the last stop, about a millisecond; for more a stop before it pays."""
ROUNDS_MAX = 6


class Taking:
    """One snapshot's RAM being taken.

    In this order: :meth:`prepare`; while :meth:`wants_round`, :meth:`mark` in a stop and :meth:`copy` after it; then
    :meth:`last` in the last stop; then :meth:`commit`.  Or at any time :meth:`abort`.

    :raises PageStoreError, OSError: from each of them where pages cannot be read or written.
    """

    def __init__(self, paged: PagedRAM, id: str, parent_id: str) -> None:
        paged.reserve()
        self._paged = paged
        self._id = id
        # Without a base every page may differ; the parent's are then compared, so that equal ones are kept once.
        like = paged.base if paged.base is not None else parent_id if paged.fits(parent_id) else None
        self._like = like
        self._all = paged.base is None
        self._writer: Writer = paged.store.writer(id, like, paged.layout)
        self._todo: Pages = NONE
        self._rounds = 0
        self._written_in_round = np.iinfo(np.int64).max
        self._staged: Pages = NONE

    def wants_round(self) -> bool:
        """Say whether so much is to be copied that the VM should be stopped only for the list of it."""
        if self._rounds >= (ROUNDS_MAX if self._paged.tracker.exact else 1):
            return False
        if self._all:
            return True
        count = len(self._paged.tracker.peek(FEW_PAGES + 1)) + (len(self._paged.pending) if not self._rounds else 0)
        # A guest that writes faster than we copy is not caught up with by another round.
        return count > FEW_PAGES and count < self._written_in_round

    def prepare(self) -> None:
        """Do ahead what makes the first stop long, where all of RAM is to be copied.  The VM may run."""
        if self._all:
            self._paged.tracker.prepare()

    def mark(self) -> None:
        """Take the list of what was written so far, and arm the tracker anew.  The VM stands still."""
        self._rounds += 1
        if self._all:
            self._paged.arm()
            return
        taken = self._paged.take()
        self._written_in_round = len(taken)
        self._todo = self._paged.pending if self._rounds == 1 else taken

    def copy(self) -> None:
        """Copy what :meth:`mark` found.  The VM may run: what it writes meanwhile is marked, and copied again."""
        if not self._all:
            self._put(self._todo)
        else:
            self._put_all()
            self._all = False
        self._todo = NONE
        self._writer.flush()  # else QEMU's flushes in the next stop would wait for all of this

    def last(self) -> None:
        """Take what was written since, and copy it.  The VM stands still, in its last stop, and QEMU saves."""
        paged = self._paged
        if self._all:
            paged.arm()
            self._put_all()
            return
        taken = paged.take(beside_qemu=True)
        if not paged.tracker.exact:
            self._put_all()
            return
        todo = np.union1d(paged.pending, taken) if not self._rounds else taken
        self._staged, rest = todo[:STAGED_PAGES], todo[STAGED_PAGES:]
        paged.gather(self._staged, paged.staging[: len(self._staged)])
        self._put(rest)

    def commit(self) -> Written:
        """Make the snapshot's pages durable.

        Effects on success: the store has them, and RAM is known to be like them when it was armed last.
        """
        staging = self._paged.staging
        for start in range(0, len(self._staged), CHUNK_PAGES):
            part = self._staged[start : start + CHUNK_PAGES]
            self._writer.put(part, staging[start : start + len(part)])
        written = self._writer.commit()
        self._paged.settle(self._id)
        return written

    def abort(self) -> None:
        """Leave nothing of it behind; what was written in RAM stays known."""
        with contextlib.suppress(OSError):
            self._writer.abort()

    def _put(self, pages: Pages) -> None:
        """Hand pages to the store as they are in RAM now."""
        buffer = new_content(min(len(pages), CHUNK_PAGES))
        for part in chunks(pages, CHUNK_PAGES):
            content = buffer[: len(part)]
            self._paged.gather(part, content)
            self._writer.put(part, content)

    def _put_all(self) -> None:
        """Hand all of RAM to the store: what takes up memory as it is, the rest as zeros."""
        populated = self._paged.populated()
        if self._like is not None:
            gone = without(self._paged.stored(self._like), populated)
            zeros = np.zeros((min(len(gone), CHUNK_PAGES), PAGE), np.uint8)
            for part in chunks(gone, CHUNK_PAGES):
                self._writer.put(part, zeros[: len(part)])
        self._put(populated)
