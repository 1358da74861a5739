"""Builders of qcow2 structures, byte by byte, for the tests of this folder."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

CLUSTER = 512


def make_header(
    *,
    version: int = 3,
    cluster_bits: int = 9,
    size: int = 32768,
    l1: tuple[int, int] = (512, 64),
    snapshots: tuple[int, int] = (0, 0),
    crypt_method: int = 0,
    incompatible: int = 0,
    refcount_order: int = 4,
    length: int | None = None,
    compression_type: int = 0,
    extensions: tuple[tuple[int, bytes], ...] = (),
    backing: bytes | None = None,
    backing_at: int | None = None,
) -> bytes:
    """Make a header; ``l1`` is (offset, entries), ``snapshots`` is (offset, count)."""
    if length is None:
        length = 72 if version == 2 else 112
    tail = b"".join(
        struct.pack(">II", kind, len(value)) + value + bytes(-len(value) % 8) for kind, value in (*extensions, (0, b""))
    )
    place = 0 if backing is None else length + len(tail) if backing_at is None else backing_at
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        place,
        len(backing or b""),
        cluster_bits,
        size,
        crypt_method,
        l1[1],
        l1[0],
        0,
        1,
        snapshots[1],
        snapshots[0],
    )
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, refcount_order, length)
        if length > 104:
            head += bytes([compression_type])
    return head.ljust(length, b"\0") + tail + (backing or b"")


def make_entry(
    *,
    qemu_id: bytes = b"1",
    tag: bytes = b"one",
    date: tuple[int, int] = (0, 0),
    vm_clock_ns: int = 0,
    vm_state_size: int = 0,
    extra: bytes = b"",
    l1: tuple[int, int] = (0, 0),
) -> bytes:
    """Make an entry of a snapshot table, without padding; ``l1`` is (offset, entries)."""
    fixed = struct.pack(
        ">QIHHIIQII", l1[0], l1[1], len(qemu_id), len(tag), *date, vm_clock_ns, vm_state_size, len(extra)
    )
    return fixed + extra + qemu_id + tag


def make_table(*entries: bytes) -> bytes:
    """Put entries one behind the other, each at a multiple of 8 bytes, the last without padding."""
    table = b""
    for entry in entries:
        table += bytes(-len(table) % 8) + entry
    return table


def make_image(clusters: dict[int, bytes]) -> bytes:
    """Put each value at its cluster of 512 bytes, zeros between them."""
    image = bytearray()
    for index, content in clusters.items():
        end = index * CLUSTER + len(content)
        image.extend(bytes(max(0, end - len(image))))
        image[index * CLUSTER : end] = content
    image.extend(bytes(-len(image) % CLUSTER))
    return bytes(image)


@pytest.fixture(scope="session")
def header() -> Callable[..., bytes]:
    return make_header


@pytest.fixture(scope="session")
def entry() -> Callable[..., bytes]:
    return make_entry


@pytest.fixture(scope="session")
def table() -> Callable[..., bytes]:
    return make_table


@pytest.fixture(scope="session")
def image_bytes() -> Callable[..., bytes]:
    return make_image
