"""What was written is told once, by either tracker; our own process stands for QEMU here."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest
from tests.unit.memory.own import OwnRAM

from snaptree.memory import tracker, userfault
from snaptree.memory.blank import BLOCK_PAGES
from snaptree.memory.kernel import status
from snaptree.memory.pagemap import Pagemap
from snaptree.memory.ptrace import TracingRefused
from snaptree.memory.ram import GuestRAM

PAGES = 3000


@pytest.fixture
def watch() -> Iterator[int]:
    """A userfaultfd of our own process: no process can trace itself."""
    fd = userfault.own()
    yield fd
    os.close(fd)


def watched(watch: int, *rams: OwnRAM) -> GuestRAM:
    for own in rams:
        userfault.register(watch, own.address, own.pages.nbytes)
    return GuestRAM(os.getpid(), [own.region() for own in rams])


def test_written_pages_are_told_once(watch: int) -> None:
    with OwnRAM(PAGES, "a") as low, OwnRAM(10, "b") as high, watched(watch, low, high) as ram:
        tracked = tracker.choose(os.getpid(), ram, "auto")
        assert (tracked.name, tracked.exact) == ("userfaultfd", True)
        low.pages[5] = 1
        tracked.arm()
        assert tracked.take().size == 0
        for page in (0, 7, 8, 2999):
            low.pages[page, 17] = 1
        high.pages[9] = 1
        everything = [0, 7, 8, 2999, 3009]
        assert tracked.peek(100).tolist() == everything
        assert tracked.peek(5).tolist() == everything
        assert tracked.peek(2).tolist() == [0, 7]
        assert tracked.take().tolist() == everything
        assert tracked.take().size == 0
        tracked.close()


def test_writes_through_the_file_are_not_noted_and_those_through_the_process_are(watch: int) -> None:
    with OwnRAM(8) as own, watched(watch, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        tracked.arm()
        ram.scatter(np.array([3]), np.ones((1, 4096), np.uint8))
        assert tracked.take().size == 0
        with GuestRAM(os.getpid(), [own.region(private=True)]) as remote:
            remote.scatter(np.array([4]), np.ones((1, 4096), np.uint8))
        assert tracked.take().tolist() == [4]
        tracked.close()


def test_more_ranges_than_one_call_returns_are_all_told(watch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaptree.memory.pagemap.REGIONS_AT_ONCE", 16)
    with OwnRAM(PAGES) as own, watched(watch, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        tracked.arm()
        own.pages[::2, 0] = 1
        assert tracked.peek(PAGES).tolist() == list(range(0, PAGES, 2))
        assert tracked.take().tolist() == list(range(0, PAGES, 2))
        assert tracked.take().size == 0
        tracked.close()


def test_ranges_that_several_cores_scan_are_told_in_order(watch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaptree.memory.pagemap.SHARED_BYTES", 0)
    monkeypatch.setattr("snaptree.memory.pagemap.SPAN_BYTES", 64 * 4096)
    monkeypatch.setattr("snaptree.memory.pagemap.REGIONS_AT_ONCE", 16)
    with OwnRAM(PAGES) as own, watched(watch, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        tracked.arm()
        written = [0, 63, 64, 65, *range(100, 300, 2), 1000, *range(1500, 1700), 2999]
        own.pages[written, 0] = 1
        assert tracked.take().tolist() == written
        assert tracked.take().size == 0
        tracked.close()


def test_where_ram_has_had_no_memory_nothing_takes_page_tables_and_what_comes_there_is_told_once(watch: int) -> None:
    pages = 1 << 18
    with OwnRAM(pages) as own, watched(watch, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        own.pages[5] = 1
        before = _page_table_kib()
        tracked.prepare()
        own.pages[6] = 1
        own.pages[BLOCK_PAGES + 7] = 1  # since
        tracked.arm()
        assert tracked.take().size == 0
        written = [5, BLOCK_PAGES - 1, BLOCK_PAGES, 9 * BLOCK_PAGES + 3, 12 * BLOCK_PAGES - 1, pages - 1]
        own.pages[written, 1] = 1
        ram.scatter(np.array([20 * BLOCK_PAGES]), np.ones((1, 4096), np.uint8))  # not seen by the process
        told = [*written[:-1], 20 * BLOCK_PAGES, pages - 1]
        assert tracked.peek(3).tolist() == told[:3]
        assert tracked.peek(100).tolist() == told
        assert tracked.take().tolist() == told
        assert tracked.take().size == 0
        own.pages[[9 * BLOCK_PAGES + 3, 9 * BLOCK_PAGES + 4, 20 * BLOCK_PAGES], 2] = 1
        assert tracked.take().tolist() == [9 * BLOCK_PAGES + 3, 9 * BLOCK_PAGES + 4, 20 * BLOCK_PAGES]
        assert tracked.take().size == 0
        assert _page_table_kib() - before < 500  # marks for all of it take 2 MiB
        tracked.close()


def test_what_we_write_where_ram_has_had_no_memory_is_not_told_where_it_is_expected(watch: int) -> None:
    with OwnRAM(10, "a") as low, OwnRAM(4 * BLOCK_PAGES, "b") as own, watched(watch, low, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        tracked.arm()
        own.pages[2 * BLOCK_PAGES + 1] = 1  # by QEMU, since
        ours = np.array([3, 10 + 5, 10 + 2 * BLOCK_PAGES + 2, 10 + 3 * BLOCK_PAGES])
        tracked.expect(ours)
        ram.scatter(ours, np.ones((4, 4096), np.uint8))
        own.pages[6] = 1
        told = [10 + 6, 10 + 2 * BLOCK_PAGES + 1, 10 + 2 * BLOCK_PAGES + 2]
        assert tracked.take().tolist() == told
        assert tracked.take().size == 0
        tracked.close()


def test_what_was_written_where_ram_had_no_memory_and_given_back_again_is_no_hole_that_is_new(watch: int) -> None:
    with OwnRAM(2 * BLOCK_PAGES) as own, watched(watch, own) as ram:
        own.pages[3] = 1
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        tracked.arm(holes=True)
        own.pages[BLOCK_PAGES + 3] = 1
        os.ftruncate(own.fd, BLOCK_PAGES * 4096)
        os.ftruncate(own.fd, 2 * BLOCK_PAGES * 4096)
        assert tracked.take(holes=True).size == 0
        own.pages[BLOCK_PAGES + 4] = 1
        assert tracked.take(holes=True).tolist() == [BLOCK_PAGES + 4]
        tracked.close()


def test_of_private_mappings_what_was_written_is_told_once_and_nothing_else_takes_page_tables(watch: int) -> None:
    pages = 1 << 18
    with OwnRAM(10, "a") as shared, OwnRAM(pages, "b", covered=True) as own, watched(watch, shared, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        shared.pages[3] = 1
        own.pages[5] = 1
        assert own.pages[6, 0] == 0  # read only
        before = _page_table_kib()
        assert 15 in tracked.take().tolist()
        assert tracked.take().size == 0
        for page in (5, 700, pages - 1):
            own.pages[page, 1] += 1
        shared.pages[4] = 1
        everything = [4, 15, 710, pages + 9]
        assert tracked.peek(2).tolist() == everything[:2]
        assert tracked.take().tolist() == everything
        assert tracked.take().size == 0
        assert _page_table_kib() - before < 100  # marks for all of it take 2 MiB
        tracked.close()


def test_a_copy_that_was_given_back_is_a_hole_of_a_private_mapping(watch: int) -> None:
    with OwnRAM(10, "a") as shared, OwnRAM(20, "b", covered=True) as own, watched(watch, shared, own) as ram:
        tracked = tracker.choose(os.getpid(), ram, "userfaultfd")
        shared.pages[:] = 1
        own.pages[4:9] = 1
        tracked.arm()
        own.pages[2] = 1
        assert tracked.take(holes=True).tolist() == [12]  # what was never copied is none
        own.pages[8] = 2
        own.map.madvise(mmap.MADV_DONTNEED, 7 * 4096, 2 * 4096)
        assert tracked.take(holes=True).tolist() == [17, 18]
        assert tracked.take(holes=True).size == 0
        tracked.close()


def _page_table_kib() -> int:
    return int(status(os.getpid())["VmPTE"].split()[0])


@pytest.mark.parametrize("wanted", ["userfaultfd", "compare"])
def test_new_holes_are_told_where_they_are_asked_for(watch: int, wanted: tracker.Wanted) -> None:
    with OwnRAM(8) as own, watched(watch, own) as ram:
        own.pages[2:6] = 1
        tracked = tracker.choose(os.getpid(), ram, wanted)
        tracked.arm(holes=True)
        os.ftruncate(own.fd, 4 * 4096)  # takes the memory of 4 and 5
        os.ftruncate(own.fd, 8 * 4096)
        kept = [2, 3] if wanted == "compare" else []
        assert tracked.take(holes=True).tolist() == [*kept, 4, 5]
        assert tracked.take(holes=True).tolist() == kept
        assert tracked.take().tolist() == kept
        assert tracked.take(holes=True).tolist() == sorted([*kept, 0, 1, 4, 5, 6, 7])  # nothing is known of before
        tracked.close()


def test_comparing_tells_all_pages_that_have_memory() -> None:
    with OwnRAM(8) as own, GuestRAM(os.getpid(), [own.region()]) as ram:
        own.pages[2:6] = 1
        tracked = tracker.choose(os.getpid(), ram, "compare")
        assert (tracked.name, tracked.exact) == ("compare", False)
        tracked.arm()
        assert tracked.peek(2).tolist() == [2, 3]
        assert tracked.take().tolist() == [2, 3, 4, 5]
        tracked.close()


def test_a_kernel_without_it_means_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> int:
        raise userfault.UserfaultUnavailable("The kernel has no userfaultfd(2).", "Use another.")

    monkeypatch.setattr(userfault, "own", without)
    with OwnRAM(8) as own, GuestRAM(os.getpid(), [own.region()]) as ram:
        tracked = tracker.choose(os.getpid(), ram, "auto")
        assert tracked.name == "compare"
        assert "The kernel has no userfaultfd(2). Use another." in tracked.why
        with pytest.raises(userfault.UserfaultUnavailable):
            tracker.choose(os.getpid(), ram, "userfaultfd")


def test_what_may_not_be_traced_means_comparing() -> None:
    with OwnRAM(8) as own, GuestRAM(os.getpid(), [own.region()]) as ram:
        tracked = tracker.choose(os.getpid(), ram, "auto")  # no process can trace itself
        assert tracked.name == "compare"
        with pytest.raises(TracingRefused):
            tracker.choose(os.getpid(), ram, "userfaultfd")


def test_a_range_that_is_not_registered_is_an_error_and_not_an_empty_list() -> None:
    with OwnRAM(8) as own, Pagemap(os.getpid()) as pagemap, pytest.raises(PermissionError):
        pagemap.scan(own.address, np.array([[0, 8]]), arm=False)


def test_a_range_of_another_userfaultfd_cannot_be_registered(watch: int) -> None:
    other = userfault.own()
    try:
        with OwnRAM(8) as own:
            for _ in range(2):
                userfault.register(watch, own.address, own.pages.nbytes)
            with pytest.raises(userfault.UserfaultUnavailable, match="another userfaultfd"):
                userfault.register(other, own.address, own.pages.nbytes)
    finally:
        os.close(other)
