"""What a view's bytes say, read back by the reader; QEMU's own tools judge in tests/functional."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from snaptree.qcow2.errors import DamagedImage, UnsupportedImage
from snaptree.qcow2.header import Header, parse_header
from snaptree.qcow2.overlay import overlay
from snaptree.qcow2.table import ImageSnapshot
from snaptree.qcow2.view import full_backing_name, view, view_backing

MIB = 1 << 20
SOURCE = Header(2, 16, 700 * MIB, 1 << 20, 3, 1 << 21, 2, backing_file="base", backing_format="raw", bitmaps=1)
SNAPSHOT = ImageSnapshot("1", "t", 0, 0, 5 * MIB, 600 * MIB, None, 3 << 16, 9)


def inner(data: bytes) -> Header:
    """Return the header that a view shows; it is the last cluster of the file."""
    return parse_header(data[-parse_header(data).cluster_size :])


def test_a_view_shows_the_snapshots_table_and_size_and_no_snapshots() -> None:
    shown = inner(view(SOURCE, SNAPSHOT, "/s", 100 * MIB, directory="/images/"))
    assert shown == Header(
        3, 16, 600 * MIB, SNAPSHOT.l1_offset, 2, 0, 0, backing_file="/images/base", backing_format="raw"
    )


@pytest.mark.parametrize("cluster_bits", [9, 12, 16, 21])
@pytest.mark.parametrize("changes", [{}, {"extended_l2": True}, {"compression_type": "zstd"}])
def test_how_clusters_are_read_stays_as_in_the_source(cluster_bits: int, changes: dict[str, Any]) -> None:
    if cluster_bits < 14 and "extended_l2" in changes:
        return
    header = replace(SOURCE, cluster_bits=cluster_bits, backing_file=None, backing_format=None, **changes)
    data = view(header, replace(SNAPSHOT, disk_size=MIB, l1_offset=1 << 21, l1_entries=99), "/s", MIB)
    shown = inner(data)
    assert (shown.cluster_bits, shown.extended_l2, shown.compression_type, shown.backing_file) == (
        cluster_bits,
        header.extended_l2,
        header.compression_type,
        None,
    )
    assert parse_header(data).cluster_size <= header.cluster_size


def test_below_a_view_is_the_sources_file_without_locks() -> None:
    header = parse_header(view(SOURCE, SNAPSHOT, '/dir/"s",é', 10 * MIB + 1, driver="host_device"))
    assert header.backing_format == "raw"
    assert header.backing_file is not None
    assert json.loads(header.backing_file.removeprefix("json:")) == {
        "driver": "raw",
        "file": {"driver": "host_device", "filename": '/dir/"s",é', "locking": "off"},
    }
    # The whole file rounded up, and a cluster of zeros behind it.
    assert header.size == 10 * MIB + 2 * SOURCE.cluster_size


def test_a_snapshot_that_does_not_say_its_size_has_the_disks() -> None:
    assert inner(view(SOURCE, replace(SNAPSHOT, disk_size=None), "/s", MIB)).size == 700 * MIB


@pytest.mark.parametrize(
    ("header", "snapshot", "source", "error", "words"),
    [
        (replace(SOURCE, crypt_method=2), SNAPSHOT, "/s", UnsupportedImage, "encrypted"),
        (replace(SOURCE, external_data_file=True), SNAPSHOT, "/s", UnsupportedImage, "external data file"),
        (SOURCE, SNAPSHOT, "/s" * 500, UnsupportedImage, "1 to 1023 are possible"),
        (replace(SOURCE, backing_file="b" * 1020), SNAPSHOT, "/s", UnsupportedImage, "1 to 1023 are possible"),
        (SOURCE, SNAPSHOT, "/\udcff", UnsupportedImage, "UTF-8"),
        (SOURCE, replace(SNAPSHOT, l1_entries=1), "/s", DamagedImage, "too small"),
        (SOURCE, replace(SNAPSHOT, l1_offset=5), "/s", DamagedImage, "cannot be at byte 5"),
    ],
)
def test_what_cannot_be_seen_so_is_refused(
    header: Header, snapshot: ImageSnapshot, source: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        view(header, snapshot, source, MIB, directory="/long")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("base.raw", "/d/base.raw"),
        ("../base.raw", "/d/../base.raw"),
        ("sub:/x", "sub:/x"),
        ("nbd:unix:/x", "nbd:unix:/x"),
        ('json:{"a":"b"}', 'json:{"a":"b"}'),
        ("./with:colon", "/d/./with:colon"),
        ("/abs", "/abs"),
    ],
)
def test_a_backing_images_name_is_made_whole_as_qemu_does(name: str, full: str) -> None:
    assert full_backing_name(name, "/d") == full


def test_what_an_overlay_on_a_view_says_is_enough_to_open_it() -> None:
    name = view_backing("/forks/v")
    file = {"driver": "file", "filename": "/forks/v", "locking": "off"}
    assert json.loads(name.removeprefix("json:")) == {"driver": "qcow2", "file": {"driver": "qcow2", "file": file}}
    assert parse_header(overlay(512, name, "qcow2")).backing_file == name
