"""Sizes are read as QEMU reads them."""

from __future__ import annotations

import pytest

from snaptree.qemu.sizes import parse


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1B", 1),
        ("1k", 1024),
        ("2G", 2 << 30),
        ("1.5G", 3 << 29),
        ("0.125g", 1 << 27),
        ("0x1000", 4096),
        ("0X10k", 16384),
        ("8E", 8 << 60),
        ("", None),
        ("G", None),
        ("-1", None),
        ("1GiB", None),
        ("1.G", None),
        ("0x1.8", None),
        ("1 G", None),
        ("٣", None),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int | None) -> None:
    assert parse(text) == size
