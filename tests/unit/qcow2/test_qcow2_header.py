"""The header of a qcow2 image, from bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import CutShort, DamagedImage, NotQcow2, UnsupportedImage
from snaptree.qcow2.header import Header, parse_header

Build = Callable[..., bytes]
rule = settings(derandomize=True, deadline=None, max_examples=3 * settings().max_examples)

BACKING_FORMAT = 0xE2792ACA
DATA_FILE = 0x44415441
FEATURE_NAMES = 0x6803F857


@rule
@given(
    version=st.sampled_from([2, 3]),
    cluster_bits=st.integers(9, 21),
    l1_cluster=st.integers(0, 2**30),
    snapshots=st.tuples(st.integers(0, 2**30), st.integers(0, 65536)),
    l1_entries=st.integers(0, 4 * 1024 * 1024),
    crypt_method=st.integers(0, 2),
    backing=st.none() | st.binary(min_size=1, max_size=100).filter(lambda raw: b"\0" not in raw),
    backing_format=st.none() | st.sampled_from([b"raw", b"qcow2"]),
    data=st.data(),
)
def test_a_header_says_what_was_written_into_it(
    header: Build,
    version: int,
    cluster_bits: int,
    l1_cluster: int,
    snapshots: tuple[int, int],
    l1_entries: int,
    crypt_method: int,
    backing: bytes | None,
    backing_format: bytes | None,
    data: st.DataObject,
) -> None:
    cluster = 1 << cluster_bits
    size = data.draw(st.integers(0, l1_entries * cluster * cluster // 8))
    found = parse_header(
        header(
            version=version,
            cluster_bits=cluster_bits,
            size=size,
            l1=(l1_cluster * cluster, l1_entries),
            snapshots=(snapshots[0] * cluster, snapshots[1]),
            crypt_method=crypt_method,
            backing=backing,
            extensions=() if backing_format is None else ((BACKING_FORMAT, backing_format),),
        ).ljust(cluster, b"\0")
    )
    assert found == Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        l1_offset=l1_cluster * cluster,
        l1_entries=l1_entries,
        snapshots_offset=snapshots[0] * cluster,
        nb_snapshots=snapshots[1],
        crypt_method=crypt_method,
        backing_file=None if backing is None else backing.decode("utf-8", "surrogateescape"),
        backing_format=None if backing_format is None else backing_format.decode(),
    )


@rule
@given(st.binary(max_size=600))
def test_any_bytes_make_a_header_or_an_image_error(raw: bytes) -> None:
    for data in (raw, b"QFI\xfb\0\0\0\2" + raw, b"QFI\xfb\0\0\0\3" + raw):
        with suppress(ImageError):
            parse_header(data)


@rule
@given(at=st.integers(0, 160), value=st.integers(0, 255))
def test_one_wrong_byte_makes_a_header_or_an_image_error(header: Build, at: int, value: int) -> None:
    data = bytearray(
        header(backing=b"base", extensions=((BACKING_FORMAT, b"raw"), (DATA_FILE, b"d"))).ljust(512, b"\0")
    )
    data[at] = value
    with suppress(ImageError):
        parse_header(bytes(data))


@rule
@given(st.integers(4, 139))
def test_a_header_that_is_cut_says_how_much_it_needs(header: Build, length: int) -> None:
    whole = header(backing=b"base", extensions=((BACKING_FORMAT, b"raw"),))
    assert len(whole) == 140
    with pytest.raises(CutShort) as caught:
        parse_header(whole[:length])
    assert length < caught.value.needed <= len(whole)


def test_features_are_decoded(header: Build) -> None:
    plain = parse_header(header())
    assert [plain.dirty, plain.corrupt, plain.external_data_file, plain.extended_l2] == [False] * 4
    assert plain.compression_type == "zlib"
    assert parse_header(header(incompatible=1)).dirty
    assert parse_header(header(incompatible=2)).corrupt
    found = parse_header(header(incompatible=4, extensions=((DATA_FILE, b"d\xff.raw"),)))
    assert found.external_data_file
    assert found.data_file == "d\udcff.raw"
    assert parse_header(header(incompatible=8, compression_type=1)).compression_type == "zstd"


def test_extended_l2_entries_cover_half_as_much(header: Build) -> None:
    normal = parse_header(header(cluster_bits=16, l1=(0, 64)).ljust(65536, b"\0"))
    extended = parse_header(header(cluster_bits=16, l1=(0, 64), incompatible=16).ljust(65536, b"\0"))
    assert extended.extended_l2
    assert (normal.l1_entry_covers, extended.l1_entry_covers) == (2**29, 2**28)
    assert normal.l1_entries_for(2**29 + 1) == 2


def test_version_2_has_no_features_however_its_header_goes_on(header: Build) -> None:
    data = header(version=2, extensions=((FEATURE_NAMES, b"\xff" * 48),))
    assert not parse_header(data).dirty


def test_the_disk_size_is_whole_sectors(header: Build) -> None:
    assert parse_header(header(size=1023)).disk_size == 512


def test_a_name_ends_at_its_first_nul_as_in_qemu(header: Build) -> None:
    assert parse_header(header(backing=b"a\0b")).backing_file == "a"


def test_extensions_may_be_absent_where_the_header_fills_its_cluster(header: Build) -> None:
    assert parse_header(header(length=512)[:512]).backing_format is None


@pytest.mark.parametrize("raw", [b"", b"QFI", b"\0" * 512, b"KDMV" + bytes(508)])
def test_another_format_is_told_from_damage(raw: bytes) -> None:
    with pytest.raises(NotQcow2, match="no qcow2 image"):
        parse_header(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"version": 1},
        {"incompatible": 1 << 5},
        {"incompatible": 1 << 63},
        {"incompatible": 8, "compression_type": 2},
    ],
)
def test_what_is_unknown_is_unsupported_and_no_damage(header: Build, change: dict[str, int]) -> None:
    with pytest.raises(UnsupportedImage):
        parse_header(header(**change).ljust(512, b"\0"))


@pytest.mark.parametrize(
    "change",
    [
        {"cluster_bits": 8},
        {"cluster_bits": 22},
        {"cluster_bits": 2**32 - 1},
        {"length": 103},
        {"length": 520},
        {"refcount_order": 7},
        {"incompatible": 16, "cluster_bits": 13, "l1": (8192, 64)},
        {"incompatible": 8},
        {"compression_type": 1},
        {"snapshots": (0, 65537)},
        {"snapshots": (1, 0)},
        {"snapshots": (2**63, 1)},
        {"l1": (513, 64)},
        {"l1": (2**63 - 512, 64)},
        {"l1": (512, 4 * 1024 * 1024 + 1)},
        {"l1": (512, 0)},
        {"size": 2**64 - 1},
        {"backing": b"x", "backing_at": 513},
        {"backing": b"x" * 1024, "backing_at": 128},
        {"backing": b"x", "backing_at": 113},
        {"extensions": ((FEATURE_NAMES, bytes(4096)),)},
    ],
)
def test_what_qemu_would_refuse_is_damage(header: Build, change: dict[str, object]) -> None:
    with pytest.raises(DamagedImage):
        parse_header(header(**change).ljust(16384, b"\0"))
