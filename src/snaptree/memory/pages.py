"""Pages, the layout of a VM's RAM, and the checksum of a page.  Not for: files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

PAGE: Final = 4096
"""Bytes of a page."""
LEAF: Final = 1024
"""Pages of a leaf: 4 MiB of RAM, whose slots take one page."""

Pages: TypeAlias = NDArray[np.int64]
"""Page numbers, through all blocks of a layout."""
Slots: TypeAlias = NDArray[np.uint32]
"""Places in the store; 0 is the zero page."""
Bytes: TypeAlias = NDArray[np.uint8]
"""Content of pages, of the shape (n, PAGE)."""


@dataclass(frozen=True, slots=True)
class RAMBlock:
    """One block of guest RAM.

    :param name: QEMU's id of it, ``pc.ram`` for example.
    :param size: in bytes, a multiple of PAGE.
    """

    name: str
    size: int


Layout: TypeAlias = tuple[RAMBlock, ...]
"""All RAM blocks of a VM.  Pages are numbered through them in this order."""


def layout_pages(layout: Layout) -> int:
    """Return how many pages a layout has."""
    return sum(block.size for block in layout) // PAGE


def block_start(layout: Layout, name: str) -> int:
    """Return the number of a block's first page.

    :raises KeyError: where the layout has no such block.
    """
    start = 0
    for block in layout:
        if block.name == name:
            return start
        start += block.size // PAGE
    raise KeyError(name)


def leaves_of(pages: int) -> int:
    """Return how many leaves so many pages take."""
    return -(-pages // LEAF)


def _weights() -> NDArray[np.uint64]:
    """Return 512 odd numbers: splitmix64 (Steele, Lea and Flood, 2014) from the seed 0, each made odd.

    They are part of the format.
    """
    found = np.empty(PAGE // 8, np.uint64)
    state, mask = 0, 2**64 - 1
    for index in range(len(found)):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        found[index] = (mixed ^ (mixed >> 31)) | 1
    return found


WEIGHTS: Final = _weights()


def words(content: Bytes) -> NDArray[np.uint64]:
    """Return content, contiguous in each page, as 64-bit words, without copying it."""
    return content.view(np.dtype("<u8")).astype(np.uint64, copy=False)


def checksums(content: Bytes) -> NDArray[np.uint32]:
    """Return the checksum of each page: 0 for a page of zeros, and only for that.

    It is a multilinear hash: the sum of all 64-bit words, each times its weight, modulo 2^64, of which the upper half
    counts (Lemire and Kaser, "Strongly universal string hashing is fast", 2014).  As a product of a matrix and a vector
    it runs at memory speed in numpy, without the GIL.
    """
    as_words = words(content)
    found = (as_words @ WEIGHTS >> np.uint64(32)).astype(np.uint32)
    doubtful = np.flatnonzero(found == 0)
    if len(doubtful) * 4 < len(content):
        found[doubtful[nonzero(content[doubtful])]] = 1
    else:  # looking at all of it is faster than copying much of it
        found[(found == 0) & nonzero(content)] = 1
    return found


def nonzero(content: Bytes) -> NDArray[np.bool_]:
    """Say of each page whether it has a bit set."""
    return np.asarray(words(content).max(axis=1) != 0, np.bool_)


def same(one: Bytes, other: Bytes) -> NDArray[np.bool_]:
    """Say of each page whether it is the same in both."""
    return np.asarray((words(one) == words(other)).all(axis=1), np.bool_)


def runs(values: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Yield the ranges [start, end) of positions in which ascending ``values`` go up by one."""
    if len(values):
        wide = values.astype(np.int64, copy=False)
        edges = [0, *(np.flatnonzero(np.diff(wide) != 1) + 1).tolist(), len(values)]
        yield from pairwise(edges)


def distinct(values: NDArray[np.integer]) -> Pages:
    """Return what is among ``values``, each once, ascending: ``np.unique`` loads 20 ms of code at its first use."""
    ascending = np.sort(values, axis=None).astype(np.int64, copy=False)
    first = np.ones(len(ascending), np.bool_)
    first[1:] = ascending[1:] != ascending[:-1]
    return ascending[first]


def chunks(values: Pages, size: int) -> Iterator[Pages]:
    """Yield ``values`` in parts of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def check_layout(layout: Sequence[RAMBlock]) -> None:
    """Make sure that a layout is one.

    :raises ValueError: where it has no pages or too many, or a block of a wrong size, or a name twice or too long.
    """
    if not layout or len(layout) > 256 or len({block.name for block in layout}) != len(layout):
        raise ValueError("a layout has 1 to 256 blocks, each with a name of its own")
    for block in layout:
        if block.size <= 0 or block.size % PAGE or not 0 < len(block.name.encode()) < 256:
            raise ValueError(f"not a block of RAM: {block.name!r}, {block.size} bytes")
    if layout_pages(tuple(layout)) >= 2**31:
        raise ValueError("more than 8 TiB of RAM")
