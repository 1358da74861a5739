"""The two ways to a region's pages: through its file, and through QEMU's address space.  Not for: several regions."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .kernel import PAGE_SIZE, SYS_PROCESS_VM_READV, SYS_PROCESS_VM_WRITEV, syscall
from .layout import RAMRegion
from .ranges import Pages, Ranges, to_ranges
from .refusal import refusal

Content = NDArray[np.uint8]
"""Rows of PAGE_SIZE bytes."""

PAGES_AT_ONCE = 512
"""So much is copied in 1 ms, or 5 ms where each page is touched for the first time: so long other threads wait."""

IOV_MAX = 1024
"""How many pieces one process_vm_readv(2) takes."""


class Access(Protocol):
    """How a region's pages are read and written; page numbers are from the region's beginning.

    :ivar marks_writes: our own writes show up in the write-protect tracker, because they are faults of QEMU's address
        space.
    """

    marks_writes: bool

    def read(self, pages: Pages, out: Content) -> None:
        """Copy pages to the rows of ``out``."""

    def write(self, pages: Pages, content: Content) -> None:
        """Copy the rows of ``content`` to pages."""

    def populated(self, first: int = 0, last: int | None = None) -> Ranges:
        """Return the pages that have memory; the others are zero, and reading them through a mapping would cost it.

        :param first: look from here on, and only before ``last``.
        """

    def next_populated(self, first: int) -> int:
        """Return the first page from ``first`` on that has memory; where there is none, the region's number of them."""

    def allocated_bytes(self) -> int:
        """Return how much memory the region's file has; 0 where that says nothing."""

    def close(self) -> None:
        """Let go of it; a second time does nothing."""


def new_content(pages: int) -> Content:
    """Return a buffer for pages, not cleared.

    A page and its copy that lie alike within 4 KiB make copying 2.5 times slower on many CPUs (a load seems to need a
    store that is under way); so this one lies otherwise.
    """
    shift = PAGE_SIZE // 2
    raw = np.empty((pages + 2) * PAGE_SIZE, np.uint8)
    start = (shift - raw.ctypes.data) % PAGE_SIZE
    return raw[start : start + pages * PAGE_SIZE].reshape(pages, PAGE_SIZE)


class MappedFile:
    """A region's file, mapped shared: it is the RAM itself.

    :raises OSError: where it cannot be opened or mapped.
    """

    marks_writes = False

    def __init__(self, region: RAMRegion) -> None:
        self._size = region.size
        self._fd = os.open(region.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = os.fstat(self._fd)
            if (found.st_dev, found.st_ino) != (region.device, region.inode):
                raise FileNotFoundError(f"{region.path} is another file than QEMU's {region.block}")
            self._mapping = mmap.mmap(self._fd, region.size)
        except BaseException:
            os.close(self._fd)
            raise
        self._pages = np.frombuffer(self._mapping, np.uint8).reshape(-1, PAGE_SIZE)

    def read(self, pages: Pages, out: Content) -> None:
        """Copy pages to the rows of ``out``."""
        for at in range(0, len(pages), PAGES_AT_ONCE):
            # mode="clip" copies straight into `out`; the pages' numbers were checked before.
            np.take(self._pages, pages[at : at + PAGES_AT_ONCE], 0, out[at : at + PAGES_AT_ONCE], "clip")

    def write(self, pages: Pages, content: Content) -> None:
        """Copy the rows of ``content`` to pages."""
        for at in range(0, len(pages), PAGES_AT_ONCE):
            self._pages[pages[at : at + PAGES_AT_ONCE]] = content[at : at + PAGES_AT_ONCE]

    def populated(self, first: int = 0, last: int | None = None) -> Ranges:
        """Return what SEEK_DATA and SEEK_HOLE say."""
        found = []
        at, end = first, self._size // PAGE_SIZE if last is None else last
        while (at := self.next_populated(at)) < end:
            start = at
            at = min(-(-os.lseek(self._fd, start * PAGE_SIZE, os.SEEK_HOLE) // PAGE_SIZE), end)
            found.append((start, at))
        return np.array(found, np.int64).reshape(-1, 2)

    def next_populated(self, first: int) -> int:
        """Return what SEEK_DATA says."""
        try:
            at = os.lseek(self._fd, first * PAGE_SIZE, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            at = self._size  # none behind
        return min(at, self._size) // PAGE_SIZE

    def allocated_bytes(self) -> int:
        """Return how much memory the file has."""
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            del self._pages
            del self._mapping


class RemoteMemory:
    """A region as QEMU's address space shows it; needs the permission to trace QEMU (Yama's scope 1 included)."""

    marks_writes = True

    def __init__(self, pid: int, region: RAMRegion) -> None:
        self._pid = pid
        self._region = region

    def read(self, pages: Pages, out: Content) -> None:
        """Copy pages to the rows of ``out``."""
        self._transfer(SYS_PROCESS_VM_READV, pages, out)

    def write(self, pages: Pages, content: Content) -> None:
        """Copy the rows of ``content`` to pages."""
        self._transfer(SYS_PROCESS_VM_WRITEV, pages, content)

    def populated(self, first: int = 0, last: int | None = None) -> Ranges:
        """Return all: a private mapping shows its file wherever QEMU has not written."""
        return np.array([[first, self._region.pages if last is None else last]], np.int64)

    def next_populated(self, first: int) -> int:
        """Return ``first``, as all count."""
        return first

    def allocated_bytes(self) -> int:
        """Return 0: what a private mapping has is told by QEMU's process."""
        return 0

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def _transfer(self, number: int, pages: Pages, content: Content) -> None:
        content = np.ascontiguousarray(content)
        runs = to_ranges(pages)
        lengths = (runs[:, 1] - runs[:, 0]) * PAGE_SIZE
        there = np.stack((self._region.address + runs[:, 0] * PAGE_SIZE, lengths), axis=1)
        here = np.stack((content.ctypes.data + np.cumsum(lengths) - lengths, lengths), axis=1)
        for at in range(0, len(runs), IOV_MAX):
            pieces = min(IOV_MAX, len(runs) - at)
            local, remote = (np.ascontiguousarray(rows[at : at + pieces]) for rows in (here, there))
            wanted = int(lengths[at : at + pieces].sum())
            try:
                # The kernel goes no further than 2 GiB at once; nobody asks for so much.
                done = syscall(number, self._pid, local.ctypes.data, pieces, remote.ctypes.data, pieces, 0)
            except PermissionError as error:
                raise refusal(self._pid, error) from error
            if done != wanted:
                raise OSError(f"only {done} of {wanted} bytes of process {self._pid}'s memory could be copied")
