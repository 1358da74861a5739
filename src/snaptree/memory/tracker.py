"""Which pages of guest RAM were written since the last time: one interface, two ways.  Not for: reading the pages.

userfaultfd
    The kernel notes the first write to each page; exact, and 0.4 to 1 ms per GiB of RAM.
    Linux 6.7 and later, and QEMU must have let us trace it once.
compare
    Every page may have been written.  The engine compares them with what is stored.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from . import userfault
from .blank import Blank
from .faults import Faults
from .pagemap import Pagemap
from .ptrace import TracingRefused
from .ram import GuestRAM, RAMRegion
from .ranges import Pages, Ranges, to_mask, to_pages, to_ranges
from .userfault import UserfaultUnavailable

Wanted = Literal["auto", "userfaultfd", "compare"]

MANY = 1 << 60
"""More pages than any RAM has."""
_ARMED_SINGLY = 256
"""So many runs of pages at most are armed one after the other, 10 µs each."""


class Tracker(Protocol):
    """Knows which pages QEMU and the guest have written; what we write ourselves need not be among them.

    Pages that lost their memory (a balloon, free page reporting) were not written: where the VM has such a device, ask
    with ``holes``, and those that are holes now and were none at the last ``arm`` or ``take`` with ``holes`` are among
    the pages; without such a last time, all that are holes now.  Of RAM in private mappings a hole is what the process
    has no copy of any more: it is what the mapped file says again.

    :ivar name: ``userfaultfd`` or ``compare``.
    :ivar why: a sentence that says why it is this one.
    :ivar exact: every page was written, or got its memory; otherwise all are told that may have been written.
    """

    name: str
    why: str
    exact: bool

    def prepare(self) -> None:
        """Do ahead what :meth:`arm` would have to do; until it is called no mark is to be relied on.

        The VM may run: what is written unseen meanwhile (see there) was written before ``arm``.  The first time every
        page with memory is armed, which takes 15 ms per GiB, and afterwards only those that were written.
        """

    def arm(self, *, holes: bool = False) -> None:
        """Forget everything written so far.  Only while the VM is stopped."""

    def expect(self, pages: Pages) -> None:
        """Prepare for our own writing to these pages, which need not be told then.  Only while the VM is stopped."""

    def take(self, *, holes: bool = False, beside_qemu: bool = False) -> Pages:
        """Return the pages written since the last arm or take, and begin anew.  Only while the VM is stopped.

        :param beside_qemu: QEMU is at work meanwhile, and needs a core.
        """

    def wrote(self, pages: Pages) -> None:
        """Note that we have written to these pages ourselves, and QEMU to none of them since the last arm or take.

        Only while the VM is stopped.  Else :meth:`written_at_most` would not count what QEMU writes to them.
        """

    def written_at_most(self) -> int:
        """Return how many pages QEMU's threads can have written since the last arm or take, in microseconds.

        Pages that lost their memory do not count.  What is not known is :data:`MANY`.
        """

    def peek(self, enough: int) -> Pages:
        """Return pages written so far, and go on; no more than ``enough``.  The VM may run."""

    def close(self) -> None:
        """Let go of it; what the kernel notes stays noted."""


class UserfaultTracker:
    """The kernel notes the writes."""

    name = "userfaultfd"
    exact = True

    def __init__(self, ram: GuestRAM, pagemap: Pagemap, why: str) -> None:
        self.why = why
        self._ram = ram
        self._pagemap = pagemap
        self._faults = Faults(pagemap.pid)
        # Counted before the last arm or take, so that what faulted in it counts; None where it does not tell.
        self._faults_before: int | None = None
        self._holes = Holes(ram, self._populated)
        self._blanks = [Blank(access, region.pages) for access, region in zip(ram.accesses, ram.regions, strict=True)]

    def prepare(self) -> None:
        """Arm what is not armed."""
        self._scan(arm=True)

    def arm(self, *, holes: bool = False) -> None:
        """Forget everything written so far."""
        self._faults_before = self._faults.count()
        self._scan(arm=True)
        self._holes.note(holes)

    def expect(self, pages: Pages) -> None:
        """Arm what has no memory yet, and is not armed for that."""
        for region, first, blank in zip(self._ram.regions, self._ram.firsts, self._blanks, strict=True):
            start, end = np.searchsorted(pages, [first, first + region.pages]).tolist()
            self._arm_blank(region, blank, blank.under(pages[start:end] - first))

    def take(self, *, holes: bool = False, beside_qemu: bool = False) -> Pages:
        """Return the pages written since the last arm or take, and begin anew."""
        self._faults_before = self._faults.count()
        return self._holes.join(self._scan(arm=True, spare=int(beside_qemu)), holes)

    def wrote(self, pages: Pages) -> None:
        """Arm what our writing through QEMU's address space has opened: QEMU's own would not fault there any more."""
        for access, region, first in zip(self._ram.accesses, self._ram.regions, self._ram.firsts, strict=True):
            if access.marks_writes:
                start, end = np.searchsorted(pages, [first, first + region.pages]).tolist()
                ranges = to_ranges(pages[start:end] - first)
                if len(ranges) > _ARMED_SINGLY:
                    self._faults_before = None
                elif len(ranges):
                    self._pagemap.scan(region.address, ranges, arm=True, private=region.covered)

    def written_at_most(self) -> int:
        """Return how many page faults QEMU has had since."""
        return MANY if self._faults_before is None else self._faults.count() - self._faults_before

    def peek(self, enough: int) -> Pages:
        """Return pages written so far."""
        return self._scan(arm=False, enough=enough)

    def close(self) -> None:
        """Close what was opened of the process."""
        self._pagemap.close()
        self._faults.close()

    def _scan(self, *, arm: bool, enough: int = 0, spare: int = 0) -> Pages:
        found = []
        left = enough
        for region, first, blank in zip(self._ram.regions, self._ram.firsts, self._blanks, strict=True):
            if arm:
                blank.begin()
            blocks, new = blank.filled()
            ranges = self._pagemap.scan(
                region.address, blank.others(), arm=arm, max_pages=left, private=region.covered, spare=spare
            )
            if arm:
                self._arm_blank(region, blank, blocks)
            pages = to_pages(ranges)
            if len(new):
                pages = np.union1d(pages, to_pages(new))
            found.append(pages + first)
            if enough:
                left -= len(pages)
                if left <= 0:
                    break
        pages = np.concatenate(found) if found else np.empty(0, np.int64)
        return pages[:enough] if enough else pages

    def _arm_blank(self, region: RAMRegion, blank: Blank, blocks: Ranges) -> None:
        """Arm blocks that were blank until now."""
        if len(blocks):
            self._pagemap.scan(region.address, blocks, arm=True)
            blank.forget(blocks)

    def _populated(self) -> Ranges:
        """Return the pages that have memory; where all is private mappings, those that the process has copied."""
        found = self._ram.populated()
        for region, first in zip(self._ram.regions, self._ram.firsts, strict=True):
            if region.covered:
                own = self._pagemap.copies(region.address, region.pages) + first
                before, after = found[:, 0] < first, found[:, 0] >= first + region.pages
                found = np.concatenate([found[before], own, found[after]])
        return found


class CompareTracker:
    """Nothing notes the writes: all pages that have memory may have been written."""

    name = "compare"
    exact = False

    def __init__(self, ram: GuestRAM, why: str) -> None:
        self.why = why
        self._ram = ram
        self._holes = Holes(ram, ram.populated)

    def prepare(self) -> None:
        """Do nothing: there is nothing to arm."""

    def arm(self, *, holes: bool = False) -> None:
        """Note the holes only."""
        self._holes.note(holes)

    def expect(self, pages: Pages) -> None:
        """Do nothing: whatever is written may be told."""

    def take(self, *, holes: bool = False, beside_qemu: bool = False) -> Pages:
        """Return all pages that have memory."""
        return self._holes.join(to_pages(self._ram.populated()), holes)

    def wrote(self, pages: Pages) -> None:
        """Do nothing: nothing is armed."""

    def written_at_most(self) -> int:
        """Return :data:`MANY`: nothing tells."""
        return MANY

    def peek(self, enough: int) -> Pages:
        """Return the first ``enough`` pages that have memory."""
        return to_pages(self._ram.populated())[:enough]

    def close(self) -> None:
        """Do nothing: there is nothing open."""


class Holes:
    """Which pages had memory the last time.

    :param populated: says which have it now.
    """

    def __init__(self, ram: GuestRAM, populated: Callable[[], Ranges]) -> None:
        self._ram = ram
        self._populated = populated
        self._before: Ranges | None = None

    def note(self, wanted: bool) -> None:
        """Note them, or forget them."""
        self._before = self._populated() if wanted else None

    def join(self, pages: Pages, wanted: bool) -> Pages:
        """Return ``pages`` together with those that became holes, and note anew."""
        before = self._before
        self.note(wanted)
        if self._before is None:
            return pages
        if before is None:
            # What was never copied from a mapped file is no hole.
            new_holes = ~to_mask(self._ram.populated(), self._ram.pages)
        else:
            new_holes = to_mask(before, self._ram.pages) & ~to_mask(self._before, self._ram.pages)
        return np.union1d(pages, np.flatnonzero(new_holes))


def choose(pid: int, ram: GuestRAM, wanted: Wanted = "auto") -> Tracker:
    """Return the tracker for a QEMU, and prepare the kernel for it.

    Once something else was mapped over a part of the RAM, that part is not watched: choose again, with the new regions.

    Prerequisites: none; the VM may run.  Blocks for some milliseconds.
    Effects on success: with ``userfaultfd``, QEMU has a userfaultfd for good, and its main thread stood still for 0.2
    ms the first time.  Whether pages written before were noted is not known: ``arm`` or ``take`` first.
    Effects on failure: none.

    :param wanted: ``auto`` takes userfaultfd where it can be, else compares; the others are what they say.
    :raises TracingRefused: with ``userfaultfd``, where QEMU may not be traced.
    :raises UserfaultUnavailable: with ``userfaultfd``, where the kernel has no such thing.
    :raises ProcessLookupError: where QEMU is gone.
    """
    if wanted == "compare":
        return CompareTracker(ram, "comparing was asked for")
    try:
        pagemap = _watched(pid, ram)
        try:
            return UserfaultTracker(ram, pagemap, "the kernel notes what is written (userfaultfd)")
        except BaseException:
            pagemap.close()
            raise
    except (TracingRefused, UserfaultUnavailable) as error:
        if wanted == "userfaultfd":
            raise
        return CompareTracker(ram, f"the kernel cannot note what is written: {error}")


def _watched(pid: int, ram: GuestRAM) -> Pagemap:
    """Return the pagemap of a QEMU whose RAM is registered, as it is after a supervisor before us; else register it."""
    pagemap = Pagemap(pid)
    try:
        if not _is_registered(pagemap, ram):
            userfault.check()
            fd = userfault.of_process(pid)
            try:
                for region in ram.regions:
                    userfault.register(fd, region.address, region.size)
            finally:
                os.close(fd)  # QEMU keeps its own
    except BaseException:
        pagemap.close()
        raise
    return pagemap


def _is_registered(pagemap: Pagemap, ram: GuestRAM) -> bool:
    try:
        for region in ram.regions:
            pagemap.scan(region.address, np.array([[0, 1]]), arm=False)  # mostly this says it already
        for region in ram.regions:
            pagemap.scan(region.address, np.array([[0, region.pages]]), arm=False)
    except ProcessLookupError:
        raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOTTY):  # not registered; no PAGEMAP_SCAN
            return False
        raise
    return True
