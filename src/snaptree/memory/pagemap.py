"""Which pages of QEMU's address space were written: PAGEMAP_SCAN.  Not for: having it noted (``userfault``)."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .kernel import PAGE_SIZE
from .ranges import Ranges
from .refusal import refusal

# linux/fs.h
PAGEMAP_SCAN = 0xC0606610
PM_SCAN_WP_MATCHING = 1
PM_SCAN_CHECK_WPASYNC = 2
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5

_Categories: TypeAlias = tuple[int, int, int]
"""Inverted, all of, any of."""
_NOT_OWN = PAGE_IS_FILE | PAGE_IS_PFNZERO
_WRITTEN: _Categories = (0, PAGE_IS_WRITTEN, 0)
_COPY: _Categories = (_NOT_OWN, _NOT_OWN | PAGE_IS_PRESENT, 0)
_WRITTEN_COPY: _Categories = (_NOT_OWN, _NOT_OWN | PAGE_IS_WRITTEN, PAGE_IS_PRESENT | PAGE_IS_SWAPPED)

_SCAN_ARG = struct.Struct("<12Q")
_WALK_END = 4
REGIONS_AT_ONCE = 1 << 16
"""How many ranges one call returns at most: 1.5 MiB of them, enough for 8 GiB of RAM of which every 32nd page was
written."""
SPAN_BYTES = 1 << 28
"""So much is scanned at a time where several cores share the work."""
SHARED_BYTES = 1 << 30
"""What is larger is shared: a scan takes 0.4 to 1 ms for each GiB, and to hand it out costs 0.2 ms."""
SCANNERS_MAX = 4
"""So many cores at most scan together."""

_REGION_BYTES = 24
_Found: TypeAlias = NDArray[np.int64]
"""Room for struct page_region: start, end and categories, as addresses of user space fit into them."""


class Pagemap:
    """``/proc/PID/pagemap``, open; a context manager.  One scan at a time, which uses several cores.

    :raises TracingRefused: on opening, where it is another user's process or one that may not be looked into.
    :raises ProcessLookupError: where the process is gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = os.pidfd_open(pid)
        try:
            self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(self._process)
            if isinstance(error, PermissionError):
                raise refusal(pid, error) from error
            raise ProcessLookupError(f"process {pid} is gone") from error
        # One for each core that scans; what is never used takes no memory, nor a thread.
        self._buffers = [_buffer() for _ in range(min(SCANNERS_MAX, _cores()))]
        self._helpers = ThreadPoolExecutor(SCANNERS_MAX - 1, thread_name_prefix="snaptree-scan")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._fd >= 0:
            self._helpers.shutdown()
            os.close(self._fd)
            os.close(self._process)
            self._fd = -1

    def scan(
        self, start: int, parts: Ranges, *, arm: bool, max_pages: int = 0, private: bool = False, spare: int = 0
    ) -> Ranges:
        """Return the ranges of pages that were written, and with ``arm`` begin anew with these.

        The rest stays as it is: arming drops mappings of KVM, so only what was written is armed.

        A page without memory counts as written, and has a page table when it is armed.

        :param start: an address in that process, page-aligned.
        :param parts: what is scanned, in pages from ``start``.
        :param arm: only while the VM is stopped, where marks are relied on: a read with O_DIRECT that is under way
            would write to pages whose marks were just taken off, without a fault.
        :param max_pages: stop after so many pages; 0 for all.
        :param private: all of it is private mappings: what was never written there was never copied, and needs no mark
            to tell, nor a page table to hold one.  Without ``arm`` before, all that was ever written.
        :param spare: so many cores are left to others.
        :returns: in pages from ``start``.
        :raises PermissionError: where a part of the range isn't registered (``userfault.register``).
        :raises OSError: EINVAL or ENOTTY where the kernel has no PAGEMAP_SCAN (before Linux 6.7).
        :raises ProcessLookupError: where the process is gone.
        """
        flags = PM_SCAN_CHECK_WPASYNC | (PM_SCAN_WP_MATCHING if arm else 0)
        categories = _WRITTEN_COPY if private else _WRITTEN
        return self._scan(start, parts, flags, categories, max_pages=max_pages, spare=spare)

    def copies(self, start: int, pages: int) -> Ranges:
        """Return the ranges of pages that a process has for itself in private mappings, in memory.

        They were written once, and neither given back nor swapped out since: the kernel tells those two alike, where
        what was given back had been armed.

        :returns: as :meth:`scan`.
        :raises OSError, ProcessLookupError: as :meth:`scan`.
        """
        return self._scan(start, np.array([[0, pages]], np.int64), 0, _COPY)

    def _scan(
        self,
        start: int,
        parts: Ranges,
        flags: int,
        categories: _Categories,
        *,
        max_pages: int = 0,
        spare: int = 0,
    ) -> Ranges:
        def work(buffer: _Found, spans: Iterator[tuple[int, int]]) -> list[NDArray[np.int64]]:
            found, left = [], max_pages
            for span in spans:
                for rows in self._walk(buffer, span, flags, categories, max(left, 0)):
                    found.append(rows)
                    left -= int((rows[:, 1] - rows[:, 0]).sum()) // PAGE_SIZE
                    if max_pages and left <= 0:
                        return found
            return found

        addresses = (start + parts * PAGE_SIZE).tolist()
        if max_pages or sum(end - at for at, end in addresses) <= SHARED_BYTES:
            found = work(self._buffers[0], iter(addresses))
        else:
            spans = iter(
                [(at, min(at + SPAN_BYTES, end)) for first, end in addresses for at in range(first, end, SPAN_BYTES)]
            )
            buffers = self._buffers[1 : max(1, _cores() - spare)]
            others = [self._helpers.submit(work, buffer, spans) for buffer in buffers]
            try:
                found = work(self._buffers[0], spans)
            finally:
                wait(others)
            found += [rows for other in others for rows in other.result()]
            found.sort(key=lambda rows: int(rows[0, 0]))
        return (np.concatenate(found) - start) // PAGE_SIZE if found else np.empty((0, 2), np.int64)

    def _walk(
        self,
        buffer: _Found,
        span: tuple[int, int],
        flags: int,
        categories: _Categories,
        max_pages: int,
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the ranges found by each call, as addresses, none of them empty."""
        at, end = span
        room = buffer.ctypes.data
        while at < end:
            arg = bytearray(
                _SCAN_ARG.pack(
                    *(_SCAN_ARG.size, flags, at, end, 0),
                    *(room, len(buffer), max_pages),
                    *(*categories, PAGE_IS_WRITTEN),  # inverted, all of, any of, returned
                )
            )
            count = fcntl.ioctl(self._fd, PAGEMAP_SCAN, arg, True)
            walked: int = _SCAN_ARG.unpack(arg)[_WALK_END]
            if walked <= at or self._has_ended():  # its address space is empty then, and nothing was written
                raise ProcessLookupError(f"process {self.pid} has ended")
            at = walked
            if count:
                yield buffer[:count, :2].copy()

    def _has_ended(self) -> bool:
        return bool(select.select([self._process], [], [], 0)[0])


def _buffer() -> _Found:
    # Of its own: what malloc has had before would all be written, which in a fork of the process costs 2 ms.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return np.frombuffer(mmap.mmap(-1, REGIONS_AT_ONCE * _REGION_BYTES, flags), np.int64).reshape(-1, 3)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
