"""L1 and L2 tables of a qcow2 image, from bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import DamagedImage, UnsupportedImage
from snaptree.qcow2.header import Header, parse_header
from snaptree.qcow2.mapping import parse_l1, parse_l2, same_state

Build = Callable[..., bytes]
rule = settings(derandomize=True, deadline=None, max_examples=3 * settings().max_examples)
L1 = st.lists(st.integers(0, 3), max_size=6)


def normal(header: Build) -> Header:
    return parse_header(header())


def extended(header: Build) -> Header:
    return parse_header(header(cluster_bits=14, l1=(0, 64), incompatible=16).ljust(16384, b"\0"))


def entries(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


def test_l1_entries_lose_their_flags() -> None:
    assert parse_l1(entries(1 << 63 | 0x10000, 0x20000, 0, 2**64 - 1)) == (0x10000, 0x20000, 0, 0x00FFFFFFFFFFFE00)


@rule
@given(L1, L1, st.integers(0, 3))
def test_l1_tables_are_the_same_where_zeros_make_them_equal(one: list[int], other: list[int], zeros: int) -> None:
    longest = max(len(one), len(other))
    equal = one + [0] * (longest - len(one)) == other + [0] * (longest - len(other))
    assert same_state(one, other) == equal
    assert same_state(one + [0] * zeros, one)
    assert same_state(tuple(one), one + [0] * zeros)


def test_clusters_that_follow_each_other_are_one_extent(header: Build) -> None:
    found = parse_l2(normal(header), entries(1 << 63 | 1024, 1536, 0, 1, 4096 | 1, 512), 100, 2500)
    assert found == [(1124, 924), (None, 1536), (512, 40)]


def test_subclusters_are_data_or_zeros(header: Build) -> None:
    cluster = 16384
    bitmap = 1 << 34 | 0b11
    found = parse_l2(extended(header), entries(cluster, bitmap, 0, 2**64 - 2**32), 512, cluster)
    assert found == [(cluster + 512, 512), (None, 15872)]


def test_a_compressed_cluster_is_unsupported(header: Build) -> None:
    with pytest.raises(UnsupportedImage, match="compressed"):
        parse_l2(normal(header), entries(1 << 62 | 512), 0, 1)


@pytest.mark.parametrize("pair", [(16384, 1 << 32 | 1), (0, 1), (512, 0)])
def test_impossible_extended_entries_are_damage(header: Build, pair: tuple[int, int]) -> None:
    with pytest.raises(DamagedImage):
        parse_l2(extended(header), entries(*pair), 0, 1)


def test_an_entry_that_points_into_a_cluster_is_damage(header: Build) -> None:
    big = parse_header(header(cluster_bits=10, l1=(1024, 64)).ljust(1024, b"\0"))
    with pytest.raises(DamagedImage, match="1536"):
        parse_l2(big, entries(1536), 0, 1)


@rule
@given(raw=st.binary(min_size=160, max_size=160), skip=st.integers(0, 511), long=st.booleans())
def test_any_entries_make_the_asked_length_or_an_image_error(header: Build, raw: bytes, skip: int, long: bool) -> None:
    kind = extended(header) if long else normal(header)
    length = kind.cluster_size * (160 // kind.l2_entry_bytes) - skip
    try:
        found = parse_l2(kind, raw, skip, length)
    except ImageError:
        return
    assert sum(extent.length for extent in found) == length
