"""Guest RAM as pages: all regions in one numbering, by either way, and holes stay holes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from tests.unit.memory.own import OwnRAM

from snaptree.memory.access import PAGES_AT_ONCE
from snaptree.memory.kernel import PAGE_SIZE
from snaptree.memory.ram import GuestRAM, new_content

WAYS = pytest.mark.parametrize("private", [False, True], ids=["through the file", "through the process"])


@WAYS
def test_pages_of_all_regions_are_read_and_written(private: bool) -> None:
    random = np.random.default_rng(1)
    with OwnRAM(3000, "pc.ram") as low, OwnRAM(50, "dimm0") as high:
        low.pages[:] = random.integers(0, 256, low.pages.shape, np.uint8)
        high.pages[:] = random.integers(0, 256, high.pages.shape, np.uint8)
        everything = np.concatenate((low.pages, high.pages))
        with GuestRAM(os.getpid(), [low.region(private=private), high.region()]) as ram:
            assert (ram.pages, ram.firsts) == (3050, (0, 3000))
            pages = np.sort(random.choice(3050, 2 * PAGES_AT_ONCE + 700, replace=False)).astype(np.int64)
            assert (ram.gather(pages) == everything[pages]).all()
            content = random.integers(0, 256, (len(pages), PAGE_SIZE), np.uint8)
            ram.scatter(pages, content)
            everything[pages] = content
            assert (low.pages == everything[:3000]).all()
            assert (high.pages == everything[3000:]).all()
            out = np.zeros((2, PAGE_SIZE), np.uint8)
            assert ram.gather(np.array([2999, 3000]), out) is out
            assert (out == everything[2999:3001]).all()


@WAYS
def test_no_pages_are_nothing(private: bool) -> None:
    with OwnRAM(4) as own, GuestRAM(os.getpid(), [own.region(private=private)]) as ram:
        nothing = np.empty(0, np.int64)
        assert ram.gather(nothing).shape == (0, PAGE_SIZE)
        ram.scatter(nothing, new_content(0))


@pytest.mark.parametrize("pages", [[-1], [2, 4], [4]])
def test_pages_beyond_the_end_are_an_error(pages: list[int]) -> None:
    with OwnRAM(4) as own, GuestRAM(os.getpid(), [own.region()]) as ram:
        with pytest.raises(IndexError):
            ram.gather(np.array(pages))
        with pytest.raises(IndexError):
            ram.scatter(np.array(pages), new_content(len(pages)))


def test_finding_what_has_memory_gives_memory_to_nothing() -> None:
    with OwnRAM(100, "a") as low, OwnRAM(10, "b") as high:
        low.pages[3:5] = 1
        low.pages[99] = 1
        high.pages[0] = 1
        with GuestRAM(os.getpid(), [low.region(), high.region()]) as ram:
            assert ram.populated().tolist() == [[3, 5], [99, 100], [100, 101]]
            assert ram.allocated_bytes() == 4 * PAGE_SIZE


def test_ram_without_any_memory_is_nothing() -> None:
    with OwnRAM(4) as own, GuestRAM(os.getpid(), [own.region()]) as ram:
        assert ram.populated().tolist() == []
    with GuestRAM(os.getpid(), []) as none:
        assert (none.pages, none.populated().tolist()) == (0, [])


def test_another_file_under_the_same_path_is_an_error() -> None:
    with OwnRAM(4) as own, OwnRAM(4) as other:
        region = own.region()
        os.dup2(other.fd, own.fd)
        with pytest.raises(FileNotFoundError, match=r"another file than QEMU's pc\.ram"):
            GuestRAM(os.getpid(), [region])


def test_a_buffer_lies_unlike_the_pages() -> None:
    content = new_content(3)
    assert content.shape == (3, PAGE_SIZE)
    assert content.ctypes.data % PAGE_SIZE == PAGE_SIZE // 2


def test_a_process_that_is_gone_is_an_error() -> None:
    with OwnRAM(4) as own:
        region = own.region(private=True)
        with GuestRAM(2**22 + 1, [region]) as ram, pytest.raises(ProcessLookupError):
            ram.gather(np.array([0]))
