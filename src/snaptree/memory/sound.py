"""Whether all pages of one snapshot are what was written, found out at the speed of memory.  Not for: naming damage.

Before a snapshot's pages are mapped they are checked once, all of them, since nobody looks at them afterwards.  They
are looked at in the page cache, where they are mapped from; what is not there yet is read as one piece.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged
from . import disk
from .kernel import SYS_MADVISE, syscall
from .pages import PAGE, Bytes, Pages, checksums, runs
from .segment import Segment

if TYPE_CHECKING:
    from .store import PageStore

Sums: TypeAlias = NDArray[np.uint32]

WINDOW: Final = 4096
"""Pages that are looked at together, 16 MiB."""
_PART: Final = 512
"""Pages whose checksums are made together: 2 MiB stay in the processor's cache."""
_RUNS_MAX: Final = 64
"""With more pieces than that in a window they are copied, which costs less than to look at each by itself."""
_THREADS_MAX: Final = 4
_MADV_POPULATE_READ: Final = 22
"""asm-generic/mman-common.h; Linux 5.14.  Where the disk fails it says so, and using the page would end us."""


def check(store: PageStore, id: str) -> None:
    """Make sure that every page of a snapshot is what was written.

    It reads all of them, and blocks meanwhile; other threads run.

    :raises PagesDamaged: where one is not, or is missing.
    :raises PageStoreError: where one cannot be read.
    """
    map = store.map(id)
    slots = np.concatenate([np.empty(0, np.int64), *(map.slots(pages).astype(np.int64) for pages in map.stored())])
    slots.sort()
    windows = list(_windows(store, slots))
    threads = max(1, min(_THREADS_MAX, len(os.sched_getaffinity(0)), len(windows)))
    with ThreadPoolExecutor(threads, "snaptree-check") as pool:
        waiting = [pool.submit(_check, segment, indices) for segment, indices in windows]
        try:
            for done in waiting:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _windows(store: PageStore, slots: Pages) -> Iterator[tuple[Segment, Pages]]:
    """Yield ascending ``slots`` in parts that lie near each other in one segment, as indices there."""
    for range, start, end in store.segments.split(slots):
        segment = store.segments.open(range)
        indices = slots[start:end] - range[0]
        edges = np.flatnonzero(np.diff(indices // WINDOW)) + 1
        yield from ((segment, part) for part in np.split(indices, edges))


def _check(segment: Segment, indices: Pages) -> None:
    with disk.failing("Pages cannot be read", segment.path):
        expected = segment.checksums(indices)
        found = _found(segment, indices)
    wrong = np.flatnonzero((expected != found) | (expected == 0))
    if len(wrong):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise PagesDamaged(f"{segment.path}: Page {int(indices[wrong[0]])} has the wrong checksum{more}.")


def _found(segment: Segment, indices: Pages) -> Sums:
    """Return the checksums that the pages have now."""
    pieces = list(runs(indices))
    found = np.empty(len(indices), np.uint32)
    first = int(indices[0])
    count = int(indices[-1]) + 1 - first
    if len(pieces) <= _RUNS_MAX:
        os.posix_fadvise(segment.fd, PAGE + first * PAGE, count * PAGE, os.POSIX_FADV_WILLNEED)
        with contextlib.suppress(OSError):
            _look(segment, first, count, [(int(indices[start]) - first, start, end) for start, end in pieces], found)
            return found
    content = np.empty((len(indices), PAGE), np.uint8)
    segment.read(indices, np.arange(len(indices), dtype=np.int64), content)
    return checksums(content)


def _look(segment: Segment, first: int, count: int, pieces: Sequence[tuple[int, int, int]], found: Sums) -> None:
    """Find the checksums of pages where they lie in the page cache.

    :param pieces: of each, its first page, counted from ``first``, and the rows of ``found`` that are its.
    :raises OSError: where a page cannot be read, or an older kernel can't say so.
    """
    # It is unmapped with the last view of it.
    mapping = mmap.mmap(segment.fd, count * PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE + first * PAGE)
    pages: Bytes = np.frombuffer(mapping, np.uint8).reshape(-1, PAGE)
    for page, start, end in pieces:
        syscall(SYS_MADVISE, pages.ctypes.data + page * PAGE, (end - start) * PAGE, _MADV_POPULATE_READ)
        for at in range(start, end, _PART):
            part = slice(at, min(at + _PART, end))
            found[part] = checksums(pages[page + at - start : page + part.stop - start])
