"""All segments of a store as one space of slots.  Not for: who uses a slot, or writing new ones."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged, PageStoreError
from . import disk
from .pages import Bytes, Pages, Slots, checksums
from .segment import Segment, parse_name

_OPEN_MAX: Final = 128
"""Segments kept open; a process may commonly have 1,024 files open, and a store may have more segments."""
_SLOTS_END: Final = 2**32


class Segments:
    """The segments in a directory.  Safe for several threads, as long as one of them at most changes anything."""

    def __init__(self, directory: Path, names: Iterable[str]) -> None:
        self._directory = directory
        ranges: list[tuple[int, int]] = []
        self._open: OrderedDict[tuple[int, int], Segment] = OrderedDict()
        self._lock = threading.Lock()
        self.strays: list[str] = []
        """Files that have a segment's name but the slots of another: nothing is ever read from them."""
        end = 0
        for first, count, name in sorted((*found, name) for name in names if (found := parse_name(name))):
            if first < end:
                self.strays.append(name)
                continue
            ranges.append((first, count))
            end = first + count
        self._ranges = tuple(ranges)  # never changed, but replaced: others may be reading it

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First slot and number of slots of each, ascending."""
        return self._ranges

    def path(self, range: tuple[int, int]) -> Path:
        """Return where a segment lies."""
        return self._directory / f"{range[0]:08x}-{range[1]:08x}.pages"

    def find(self, slot: int) -> tuple[int, int]:
        """Return the segment that a slot lies in.

        :raises PagesDamaged: where there is none.
        """
        ranges = self._ranges
        at = bisect_right(ranges, (slot, _SLOTS_END)) - 1
        if at < 0 or slot >= sum(ranges[at]):
            raise PagesDamaged(f"{self._directory}: The file that held page {slot:#x} of the store is missing.")
        return ranges[at]

    def room(self, count: int, lost: Sequence[tuple[int, int]] = ()) -> int:
        """Return the first of ``count`` slots that no segment has: above all, or in a gap where the top is reached.

        :param lost: ranges of slots that no segment has, and that are not to be taken either.
        :raises PageStoreError: where there is no such gap.
        """
        end = 1
        gap = 0
        for first, length in sorted((*self._ranges, *lost)) if lost else self._ranges:
            if not gap and first - end >= count:
                gap = end
            end = max(end, first + length)
        if end + count <= _SLOTS_END:
            return end
        if gap:
            return gap
        raise PageStoreError(f"{self._directory}: There is no room for {count} more pages.", "Delete snapshots.")

    def add(self, range: tuple[int, int]) -> None:
        """Know one more segment, whose file has its name."""
        self._ranges = tuple(sorted((*self._ranges, range)))

    def drop(self, range: tuple[int, int]) -> None:
        """Remove a segment's file."""
        disk.unlink(self.path(range))
        with self._lock:
            self._open.pop(range, None)
        self._ranges = tuple(known for known in self._ranges if known != range)

    def close(self) -> None:
        """Close all files; they are opened again when they are needed."""
        with self._lock:
            self._open.clear()

    def open(self, range: tuple[int, int]) -> Segment:
        """Return a segment, open.

        :raises PagesDamaged: as Segment.open.
        :raises PageStoreError: where it cannot be read.
        """
        with self._lock:
            found = self._open.get(range)
            if found is None:
                path = self.path(range)
                with disk.failing("It cannot be opened", path):
                    found = self._open[range] = Segment.open(path)
                if len(self._open) > _OPEN_MAX:
                    self._open.popitem(last=False)
            self._open.move_to_end(range)
            return found

    def known(self, slots: Pages) -> NDArray[np.bool_]:
        """Say of each slot whether a segment of it is there."""
        ranges = self._ranges
        if not ranges:
            return np.zeros(len(slots), np.bool_)
        first, count = np.array(ranges, np.int64).T
        at = np.searchsorted(first, slots, "right") - 1
        return np.asarray((at >= 0) & (slots < first[at] + count[at]), np.bool_)

    def split(self, slots: Pages) -> Iterator[tuple[tuple[int, int], int, int]]:
        """Yield for ascending ``slots`` each segment with the positions [start, end) of those that lie in it.

        :raises PagesDamaged: where a slot lies in none.
        """
        start = 0
        while start < len(slots):
            range = self.find(int(slots[start]))
            end = int(np.searchsorted(slots, sum(range)))
            yield range, start, end
            start = end

    def checksums(self, slots: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Return the checksum of each slot, in any order: 0 for slot 0, and for a slot that holds nothing.

        :raises PagesDamaged: where a segment is missing or damaged.
        """
        order, ascending = _ascending(slots)
        found = np.zeros(len(slots), np.uint32)
        for range, start, end in self.split(ascending):
            segment = self.open(range)
            with disk.failing("Checksums cannot be read", segment.path):
                found[order[start:end]] = segment.checksums(ascending[start:end] - range[0])
        return found

    def read_unchecked(self, slots: NDArray[np.integer], out: Bytes) -> None:
        """Read what is at the slots, in any order; slot 0 is a page of zeros.

        :param out: of the shape (len(slots), PAGE), contiguous.
        :raises PagesDamaged: where a segment is missing or cut.
        """
        order, ascending = _ascending(slots)
        if len(order) != len(slots):
            out[slots == 0] = 0
        for range, start, end in self.split(ascending):
            segment = self.open(range)
            with disk.failing("Pages cannot be read", segment.path):
                segment.read(ascending[start:end] - range[0], order[start:end], out)

    def wrong(self, slots: NDArray[np.integer], out: Bytes) -> Pages:
        """Read as read_unchecked does; return the positions of pages that are not what their checksums say."""
        expected = self.checksums(slots)
        self.read_unchecked(slots, out)
        return np.flatnonzero((expected != checksums(out)) | ((expected == 0) & (slots != 0)))

    def read(self, slots: NDArray[np.integer], out: Bytes) -> None:
        """Read pages, and verify every checksum.

        :raises PagesDamaged: where one is wrong, and as read_unchecked.
        """
        wrong = self.wrong(slots, out)
        if len(wrong):
            slot = int(slots[wrong[0]])
            range = self.find(slot)
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise PagesDamaged(f"{self.path(range)}: Page {slot - range[0]} has the wrong checksum{more}.")


def _ascending(slots: Slots | NDArray[np.integer]) -> tuple[Pages, Pages]:
    """Return the positions of slots other than 0, in the order of the slots, and the slots in that order."""
    order = np.flatnonzero(slots)
    wide = slots[order].astype(np.int64)
    if (wide[1:] < wide[:-1]).any():
        by = np.argsort(wide, kind="stable")
        order, wide = order[by], wide[by]
    return order, wide
