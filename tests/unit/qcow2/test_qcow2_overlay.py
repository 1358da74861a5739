"""What a new image's bytes say, read back by the reader; QEMU's own tools judge in tests/functional."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from snaptree.qcow2.header import parse_header
from snaptree.qcow2.image import Image
from snaptree.qcow2.mapping import OFFSET_MASK
from snaptree.qcow2.overlay import BACKING_MAX_BYTES, CLUSTER_SIZE, SIZE_MAX_BYTES, overlay

COPIED = 1 << 63


def words(data: bytes, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}Q", data, offset)


def mapped(data: bytes) -> dict[int, bytes | None]:
    """Return what the image itself holds, by number of cluster."""
    header = parse_header(data)
    size = header.cluster_size
    found: dict[int, bytes | None] = {}
    for table, l1_entry in enumerate(words(data, header.l1_offset, header.l1_entries)):
        if not l1_entry:
            continue
        assert l1_entry & COPIED
        for place, entry in enumerate(words(data, l1_entry & OFFSET_MASK, size // 8)):
            if entry:
                at = entry & OFFSET_MASK
                assert bool(at) == bool(entry & COPIED) != bool(entry & 1)
                found[table * (size // 8) + place] = data[at : at + size] if at else None
    return found


@pytest.mark.parametrize("size", [0, 512, 1 << 29, (1 << 29) + 512, 5 << 40])
def test_an_overlay_has_its_size_its_backing_image_and_maps_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "o.qcow2"
    path.write_bytes(overlay(size, "json:{}", "raw"))
    with Image.open(path) as image:
        header = image.header
        assert (header.size, header.backing_file, header.backing_format) == (size, "json:{}", "raw")
        assert not any(image.active_l1())
        assert image.snapshots() == ()
    assert path.stat().st_size % CLUSTER_SIZE == 0


@pytest.mark.parametrize("cluster_bits", [9, 12, 16])
def test_its_own_clusters_are_where_they_belong_and_every_cluster_of_the_file_is_counted_once(
    cluster_bits: int,
) -> None:
    size = 1 << cluster_bits
    own = {0: b"first", 3: None, size // 8: b"second table", 40 * size: None, 40 * size + 1: b"z" * size}
    data = overlay(200 << 30 if cluster_bits == 16 else 1 << 30, "b", "raw", cluster_bits=cluster_bits, own=own)
    assert mapped(data) == {index: None if text is None else text.ljust(size, b"\0") for index, text in own.items()}
    table, clusters = struct.unpack_from(">QI", data, 48)
    counts = b"".join(data[at : at + size] for at in words(data, table, clusters * size // 8) if at)
    total = len(data) // size
    assert total * size == len(data)
    assert struct.unpack(f">{len(counts) // 2}H", counts) == (1,) * total + (0,) * (len(counts) // 2 - total)


@pytest.mark.parametrize(
    ("size", "backing"),
    [(513, "a"), (-512, "a"), (SIZE_MAX_BYTES + 512, "a"), (512, ""), (512, "a" * (BACKING_MAX_BYTES + 1))],
)
def test_what_cannot_be_in_an_image_is_refused(size: int, backing: str) -> None:
    with pytest.raises(ValueError, match=r"size|name"):
        overlay(size, backing, "raw")


def test_a_name_that_does_not_fit_into_the_first_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into a cluster of 512"):
        overlay(512, "a" * 400, "raw", cluster_bits=9)


def test_a_cluster_behind_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="behind the end"):
        overlay(512, "a", "raw", cluster_bits=9, own={64: None})


def test_a_cluster_cannot_hold_more_than_its_bytes() -> None:
    with pytest.raises(ValueError, match="513 bytes in a cluster of 512"):
        overlay(512, "a", "raw", cluster_bits=9, own={0: bytes(513)})
