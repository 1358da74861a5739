"""Giving a fork its RAM: a snapshot's pages, mapped privately over the memory that QEMU has.  Not for: disks.

QEMU's own RAM is a memfd, as in any VM.  Over it its main thread maps, with calls that we make in it, the read-only
files of the page store: forks share them, and what a fork writes is its own.  QEMU never has a descriptor through which
it could change them: a guest's balloon would punch holes into the file under all other forks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..memory import userfault
from ..memory.instructions import Code
from ..memory.kernel import SYS_CLOSE, SYS_MMAP
from ..memory.layout import RAMRegion
from ..memory.pages import PAGE, Layout, Pages
from ..memory.ptrace import Traced, TracingRefused
from ..memory.ram import GuestRAM, new_content
from ..memory.runs import MapRun
from ..memory.store import PageStore
from . import ramway

# linux/mman.h
PROT_READ, PROT_WRITE = 1, 2
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x02, 0x10, 0x20, 0x4000

COPIED_PAGES = 768
"""3 MiB: so many scattered pages are copied, which costs less than a mapping for each."""
MAPPINGS_MAX = 16384
"""A quarter of what a process may have (vm.max_map_count); what is beyond is copied."""


@dataclass(frozen=True, slots=True)
class RAMImage:
    """How to make a snapshot's RAM.

    :param layout: the blocks.
    :param mapped: block and run, in the order in which they are to be mapped.
    :param copied: the pages that are to be written afterwards.
    """

    layout: Layout
    mapped: tuple[tuple[str, MapRun], ...]
    copied: Pages

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are mapped."""
        return tuple(dict.fromkeys(run.path for _, run in self.mapped if run.path is not None))

    def fits(self, regions: Iterable[RAMRegion]) -> bool:
        """Say whether a QEMU whose RAM lies there has the same blocks."""
        return {(r.block, r.size) for r in regions} == {(b.name, b.size) for b in self.layout}


def image_of(store: PageStore, id: str) -> RAMImage:
    """Return how to make a snapshot's RAM.

    :raises PagesDamaged: where the store is damaged.
    """
    mapped: list[tuple[str, MapRun]] = []
    small: list[tuple[int, int, str, MapRun]] = []  # pages, first of all pages
    start = 0
    layout = store.map(id).layout
    for block in layout:
        below = MapRun(0, block.size // PAGE, None, 0)  # all of it is private, so that only copies were ever written
        for run in store.runs(id, block.name):
            if run.page_in_block == 0 and run.count == below.count:
                below = run
            else:
                small.append((run.count, start + run.page_in_block, block.name, run))
        mapped.append((block.name, below))
        start += block.size // PAGE
    small.sort(key=lambda item: item[0])
    copied: list[Pages] = []
    left = COPIED_PAGES
    for number, (count, first, _, _) in enumerate(small):
        if count > left and len(small) - number <= MAPPINGS_MAX:
            break
        left -= count
        copied.append(np.arange(first, first + count, dtype=np.int64))
    mapped += [(block, run) for _, _, block, run in small[len(copied) :]]
    return RAMImage(layout, tuple(mapped), np.sort(np.concatenate([np.empty(0, np.int64), *copied])))


@contextmanager
def opened(files: Iterable[Path]) -> Iterator[dict[Path, int]]:
    """Open files for QEMU to inherit, for reading only."""
    found: dict[Path, int] = {}
    try:
        for path in files:
            found[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        yield found
    finally:
        for fd in found.values():
            os.close(fd)


def map_image(
    pid: int,
    regions: Sequence[RAMRegion],
    image: RAMImage,
    inherited: Mapping[Path, int],
    *,
    code: Code | None = None,
) -> None:
    """Map a snapshot's RAM in a QEMU whose guest has not run.

    Effects on success: every file that was inherited for it is closed in QEMU again, which has a userfaultfd, if that
    can be had.
    Effects on failure: its RAM is of no moment; QEMU has to be ended.

    :param inherited: the descriptors that QEMU has of the files.
    :param code: where its instructions lie, if that is known.
    :raises TracingRefused: where QEMU may not be traced.
    :raises OSError: where a mapping can't be made.
    """
    addresses = {region.block: region.address for region in regions}
    with Traced(pid, code) as traced:
        for block, run in image.mapped:
            flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE
            fd = -1 if run.path is None else inherited[run.path]
            traced.call(
                SYS_MMAP,
                addresses[block] + run.page_in_block * PAGE,
                run.count * PAGE,
                PROT_READ | PROT_WRITE,
                flags | (MAP_ANONYMOUS if run.path is None else 0),
                fd,
                run.file_offset,
            )
        for fd in inherited.values():
            traced.call(SYS_CLOSE, fd)
        if os.environ.get(ramway.TRACKER) != "compare":
            # Whoever chooses the tracker finds it there, and need not stop QEMU once more.
            with contextlib.suppress(TracingRefused, userfault.UserfaultUnavailable):
                os.close(userfault.make(traced))


def copy_rest(ram: GuestRAM, store: PageStore, id: str, image: RAMImage) -> None:
    """Write the pages that are not mapped.

    :raises PagesDamaged: where one of them is.
    """
    if len(image.copied):
        content = new_content(len(image.copied))
        store.read(store.map(id).slots(image.copied), content)
        ram.scatter(image.copied, content)
