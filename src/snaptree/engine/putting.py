"""Putting a snapshot's RAM back in place.  Not for: QEMU's part of a load, which comes after.

Only pages that differ between now and the snapshot are written.  What the store holds of them is read and checked
before any is written, nearly all of it before the VM is stopped, so a damaged page refuses the load while nothing has
been touched.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..memory import sound
from ..memory.pages import Bytes, Pages, chunks, same
from ..memory.ram import new_content
from ..qemu.vmgenid import is_generation_page
from .paged import CHUNK_PAGES, NONE, STAGED_PAGES, PagedRAM, without

SHORT_PAGES = 4096
"""So many pages at most, 16 MiB, are written in a few milliseconds."""
SHORT_RAM_PAGES = 1 << 22
"""So many pages of RAM at most, 16 GiB, are looked at in a few milliseconds, where few were written."""


class Putting:
    """One load's RAM.

    In this order: :meth:`prepare`, :meth:`read`; in the stop :meth:`look`, :meth:`write`, QEMU's load, :meth:`settle`.
    Or after :meth:`write`, where QEMU has changed nothing, :meth:`put_back`.
    """

    def __init__(self, paged: PagedRAM, id: str, *, way_back: bool = True) -> None:
        paged.reserve()
        self._paged = paged
        self._id = id
        self._target = paged.store.map(id)
        self._way_back = way_back
        self._staged: list[Pages] = []  # their content lies in `staging`, one after the other
        self._room = len(paged.staging)
        self._unread: Pages = NONE  # of the need, what is neither staged nor checked
        self._rest: Pages = NONE  # of the need, what is not staged
        self._need: Pages = NONE
        self._written = False
        self._kept_pages: Pages | None = None  # what was in them is in `kept`

    @property
    def is_short(self) -> bool:
        """Whether what comes next takes a few milliseconds: little differs, and little was written since."""
        paged = self._paged
        if paged.base is None or paged.ram.pages > SHORT_RAM_PAGES:
            return False
        return len(self._need) + paged.tracker.written_at_most() <= SHORT_PAGES

    def prepare(self, *, later: bool = False) -> None:
        """Find out what will be written, as far as that is known while the VM runs, and read and check it.

        :param later: leave that to :meth:`read`, where it is so little that there is room for it.
        :raises PagesDamaged: where a page is not what was stored; nothing was changed.
        """
        if self._paged.base is None:
            sound.check(self._paged.store, self._id)
            return
        self._need = self._unread = self._differing()
        if not later or len(self._need) > STAGED_PAGES:
            self.read()

    def read(self) -> None:
        """Read and check what :meth:`prepare` has left.

        :raises PagesDamaged: where a page is not what was stored; nothing was changed.
        """
        unread, self._unread = self._unread, NONE
        rest = self._stage(unread)
        self._check(rest)
        self._rest = np.union1d(self._rest, rest)

    def look(self) -> None:
        """Find out what is to be written, read that too, and remember what is there.  The VM stands still.

        What the VM has written since its base is looked for only here: looking for it before takes as long again, and
        is seldom much.

        :raises PagesDamaged: where a page is not what was stored; nothing was changed.
        """
        paged = self._paged
        self._kept_pages = None
        if paged.base is None:
            paged.arm()
            return
        taken = paged.take()
        new = without(taken, self._need)
        self._rest = np.union1d(self._rest, self._stage(new) if paged.tracker.exact else new)
        self._need = np.union1d(self._need, new)
        paged.tracker.expect(self._need)  # before it is read: reading gives it memory
        self._keep(self._need)
        paged.add_pending(self._need)

    def write(self) -> None:
        """Make RAM that of the snapshot.  The VM stands still, and has since :meth:`look`.

        Effects on failure: RAM is of neither moment; which pages may differ is known.
        """
        paged = self._paged
        self._written = True
        if paged.base is None:
            everything = self._everything()
            paged.tracker.expect(everything)
            self._restore(everything)
            paged.tracker.wrote(everything)
            return
        at = 0
        for pages in self._staged:
            paged.ram.scatter(pages, paged.staging[at : at + len(pages)])
            at += len(pages)
        self._restore(self._rest)
        paged.tracker.wrote(self._need)

    def settle(self, guid: str = "") -> None:
        """Put back what QEMU wrote into RAM while loading (a reset copies ROMs there).  The VM stands still.

        Effects on success: RAM is, byte for byte, that of the snapshot, and known to be.

        :param guid: the VM generation id of this QEMU, which it writes into RAM at each load; the page keeps it.
        """
        paged = self._paged
        left = NONE
        if paged.written_at_most():  # mostly it is none: then nobody has to wait for a look at all of RAM
            left = self._restore(paged.take() if paged.tracker.exact else self._everything(), guid)
        paged.settle(self._id)
        paged.add_pending(left)
        self._kept_pages = None

    def put_back(self) -> bool:
        """Undo :meth:`write`.  The VM stands still, and QEMU has changed nothing.

        :return: whether RAM is as it was; else it is of neither moment.
        """
        if self._kept_pages is None:
            return False
        self._paged.ram.scatter(self._kept_pages, self._paged.kept[: len(self._kept_pages)])
        return True

    def _stage(self, pages: Pages) -> Pages:
        """Read these pages as long as there is room for them; return the rest."""
        room = self._paged.staging[len(self._paged.staging) - self._room :]
        staged, rest = pages[: self._room], pages[self._room :]
        for start in range(0, len(staged), CHUNK_PAGES):
            part = staged[start : start + CHUNK_PAGES]
            self._read(part, room[start : start + len(part)])
        self._staged.append(staged)
        self._room -= len(staged)
        return rest

    def _differing(self) -> Pages:
        """Return the pages that differ for sure between what RAM is known to be like and the snapshot."""
        paged = self._paged
        assert paged.base is not None
        pages = paged.store.map(paged.base).differing(self._target)
        return np.union1d(pages, paged.pending)

    def _everything(self) -> Pages:
        """Return every page that may differ where nothing is known; the others are zero on both sides."""
        return np.union1d(self._paged.stored(self._id), self._paged.populated())

    def _keep(self, need: Pages) -> None:
        self._kept_pages = None
        if self._way_back and not self._written and len(need) <= len(self._paged.kept):
            self._paged.ram.gather(need, self._paged.kept[: len(need)])
            self._kept_pages = need

    def _restore(self, pages: Pages, guid: str = "") -> Pages:
        """Write those of ``pages`` that are not as in the snapshot; return those that are QEMU's to write."""
        now = new_content(min(len(pages), CHUNK_PAGES))
        left: list[int] = []
        for part, content in self._contents(pages):
            self._paged.ram.gather(part, now[: len(part)])
            rows = np.flatnonzero(~same(now[: len(part)], content))
            if guid:
                qemus = [row for row in rows if is_generation_page(content[row].tobytes(), now[row].tobytes(), guid)]
                left += part[qemus].tolist()
                rows = without(rows, np.array(qemus, np.int64))
            if len(rows):
                self._paged.ram.scatter(part[rows], content[rows])
        return np.array(left, np.int64)

    def _contents(self, pages: Pages) -> Iterator[tuple[Pages, Bytes]]:
        """Yield pages by chunks with what the snapshot has for them; each is good until the next is asked for."""
        buffer = new_content(min(len(pages), CHUNK_PAGES))
        for part in chunks(pages, CHUNK_PAGES):
            content = buffer[: len(part)]
            self._read(part, content)
            yield part, content

    def _read(self, pages: Pages, out: Bytes) -> None:
        self._paged.store.read(self._target.slots(pages), out)

    def _check(self, pages: Pages) -> None:
        for _ in self._contents(pages):
            pass
