"""Checksums find what they promise, and layouts are checked."""

from __future__ import annotations

import numpy as np
import pytest

from snaptree.memory.pages import (
    PAGE,
    WEIGHTS,
    RAMBlock,
    block_start,
    check_layout,
    checksums,
    layout_pages,
    nonzero,
    runs,
    same,
)


def flipped(page: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return a page 32,768 times, each with another bit flipped."""
    pages = np.tile(page, (PAGE * 8, 1))
    numbers = np.arange(PAGE * 8)
    pages[numbers, numbers // 8] ^= (1 << (numbers % 8)).astype(np.uint8)
    return pages


@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_every_single_bit_that_flips_changes_the_checksum(kind: str) -> None:
    page = {
        "zeros": np.zeros(PAGE, np.uint8),
        "ones": np.full(PAGE, 0xFF, np.uint8),
        "random": np.random.default_rng(1).integers(0, 256, PAGE, np.uint8),
    }[kind]
    before = checksums(page[None, :])[0]
    for part in np.array_split(flipped(page), 16):
        assert (checksums(part) != before).all()


def test_the_weights_let_no_single_bit_go_unseen_whatever_the_page() -> None:
    """A flip changes the sum by weight << bit; with a carry the upper half changes by that or one more.

    It may not be so little that the upper half stays, or becomes 1 where it was 0, which is kept as 1.
    """
    for bit in range(64):
        upper = (WEIGHTS << np.uint64(bit)) >> np.uint64(32)
        assert not np.isin(upper, [0, 1, 2**32 - 1, 2**32 - 2]).any()
    assert (WEIGHTS % np.uint64(2) == 1).all()


def test_the_weights_are_those_of_the_format() -> None:
    # splitmix64's first numbers from the seed 0, as its authors publish them, made odd
    assert [int(weight) for weight in WEIGHTS[:3]] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F5, 0x06C45D188009454F]


def test_only_the_zero_page_has_the_checksum_zero() -> None:
    page = np.zeros((2, PAGE), np.uint8)
    # Two words whose products cancel: the sum is 0, and the page is not.
    words = page.view("<u8")
    words[1, 0] = WEIGHTS[1]
    words[1, 1] = np.uint64(2**64 - int(WEIGHTS[0]))
    assert int(words[1] @ WEIGHTS) == 0
    assert list(checksums(page)) == [0, 1]
    assert list(checksums(np.concatenate([page] * 1 + [np.full((9, PAGE), 7, np.uint8)]))[:2]) == [0, 1]
    assert list(nonzero(page)) == [False, True]


def test_equal_pages_are_told_from_others() -> None:
    one = np.zeros((3, PAGE), np.uint8)
    other = one.copy()
    other[1, PAGE - 1] = 1
    assert list(same(one, other)) == [True, False, True]


def test_runs_are_where_numbers_go_up_by_one() -> None:
    assert list(runs(np.array([3, 4, 5, 9, 11, 12], np.uint32))) == [(0, 3), (3, 4), (4, 6)]
    assert list(runs(np.array([], np.int64))) == []


def test_pages_are_numbered_through_all_blocks() -> None:
    layout = (RAMBlock("a", 3 * PAGE), RAMBlock("b", 2 * PAGE))
    assert layout_pages(layout) == 5
    assert (block_start(layout, "a"), block_start(layout, "b")) == (0, 3)
    with pytest.raises(KeyError):
        block_start(layout, "c")


@pytest.mark.parametrize(
    "layout",
    [
        (),
        (RAMBlock("a", 0),),
        (RAMBlock("a", PAGE + 1),),
        (RAMBlock("", PAGE),),
        (RAMBlock("x" * 256, PAGE),),
        (RAMBlock("a", PAGE), RAMBlock("a", PAGE)),
        (RAMBlock("a", 2**43),),
        tuple(RAMBlock(str(n), PAGE) for n in range(257)),
    ],
)
def test_what_is_no_layout_is_refused(layout: tuple[RAMBlock, ...]) -> None:
    with pytest.raises(ValueError, match=r"layout|block|RAM"):
        check_layout(layout)
