"""Guest RAM as pages: reading and writing it while QEMU has it.  Not for: finding it (``layout``), nor what changed.

Page numbers run through all regions in their order.  There are two ways to a region's pages (``access``).  Where QEMU
maps its file shared, the file is the RAM, and we use it.  Where a fork has private mappings in it, only QEMU's own
address space shows what is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from .access import Access, Content, MappedFile, RemoteMemory, new_content
from .layout import Backend, RAMRegion, find_regions
from .ranges import Pages, Ranges
from .refusal import refusal

__all__ = ["Backend", "Content", "GuestRAM", "RAMRegion", "find_regions", "new_content"]


class GuestRAM:
    """The RAM of one running QEMU; a context manager.  The calls copy and block; each may be made in any thread.

    :ivar pid: QEMU.
    :ivar regions: in their order.
    :ivar firsts: the number of each region's first page.
    :ivar pages: how many pages there are.
    :ivar accesses: to each region.
    :raises TracingRefused: on opening, where a region may not be reached.
    :raises OSError: on opening, where a region's file cannot be opened or mapped.
    """

    def __init__(self, pid: int, regions: Sequence[RAMRegion]) -> None:
        self.pid = pid
        self.regions = tuple(regions)
        ends = np.cumsum([region.pages for region in regions], dtype=np.int64)
        self.pages = int(ends[-1]) if len(ends) else 0
        self.firsts = tuple(int(end) - region.pages for end, region in zip(ends, regions, strict=True))
        self._bounds = np.array([*self.firsts, self.pages], np.int64)
        self.accesses: list[Access] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for region in regions:
                self.accesses.append(_open(pid, region))
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; QEMU keeps its RAM.  A second time does nothing."""
        while self.accesses:
            self.accesses.pop().close()

    def gather(self, pages: Pages, out: Content | None = None) -> Content:
        """Return a copy of pages.

        Reading a hole (a page that is not in ``populated``) of a shared region gives it memory: leave them out.

        :param pages: ascending.
        :param out: where to copy them to; without it a buffer is made (``new_content`` makes one that is fast).
        """
        buffer = new_content(len(pages)) if out is None else out
        for access, own, rows in self._split(pages):
            access.read(own, buffer[rows])
        return buffer

    def scatter(self, pages: Pages, content: Content) -> None:
        """Write pages.

        Writing zeros to a hole (a page not in ``populated``) of a shared region gives it memory: leave them out.
        A tracker sees these writes in private regions and not in shared ones: count all of them as written.

        :param pages: ascending.
        :param content: a row for each.
        """
        for access, own, rows in self._split(pages):
            access.write(own, content[rows])

    def populated(self) -> Ranges:
        """Return the pages that have memory; all others are zero.  Of a private region all count."""
        return np.concatenate(
            [
                np.empty((0, 2), np.int64),
                *(access.populated() + first for access, first in zip(self.accesses, self.firsts, strict=True)),
            ]
        )

    def allocated_bytes(self) -> int:
        """Return how much memory the files of all regions have."""
        return sum(access.allocated_bytes() for access in self.accesses)

    def _split(self, pages: Pages) -> Iterator[tuple[Access, Pages, slice]]:
        """Yield, for each region, its own page numbers and which rows they are."""
        if len(pages) and not 0 <= pages[0] <= pages[-1] < self.pages:
            raise IndexError(f"pages {pages[0]} to {pages[-1]} are not all within the {self.pages} pages of RAM")
        cuts = np.searchsorted(pages, self._bounds).tolist()
        for number, access in enumerate(self.accesses):
            rows = slice(cuts[number], cuts[number + 1])
            if rows.stop > rows.start:
                yield access, pages[rows] - self.firsts[number], rows


def _open(pid: int, region: RAMRegion) -> Access:
    if region.private:
        return RemoteMemory(pid, region)
    try:
        return MappedFile(region)
    except PermissionError as error:
        raise refusal(pid, error) from error
