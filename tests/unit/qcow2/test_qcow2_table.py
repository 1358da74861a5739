"""The snapshot table of a qcow2 image, from bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import CutShort, DamagedImage
from snaptree.qcow2.table import ImageSnapshot, parse_snapshot_table

Build = Callable[..., bytes]
rule = settings(derandomize=True, deadline=None, max_examples=3 * settings().max_examples)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=40).filter(lambda text: "\0" not in text)
SNAPSHOTS = st.builds(
    ImageSnapshot,
    qemu_id=TEXTS,
    tag=TEXTS,
    date_ns=st.integers(0, 2**32 * 10**9 - 1),
    vm_clock_ns=U64,
    vm_state_size=U64,
    disk_size=U64,
    icount=st.none() | st.integers(0, 2**64 - 2),
    l1_offset=U64,
    l1_entries=U32,
)


def write(entry: Build, snapshot: ImageSnapshot, more: bytes = b"") -> bytes:
    icount = 2**64 - 1 if snapshot.icount is None else snapshot.icount
    return entry(
        qemu_id=snapshot.qemu_id.encode("utf-8"),
        tag=snapshot.tag.encode("utf-8"),
        date=divmod(snapshot.date_ns, 10**9),
        vm_clock_ns=snapshot.vm_clock_ns,
        vm_state_size=snapshot.vm_state_size if snapshot.vm_state_size < 2**32 else 0,
        extra=struct.pack(">QQQ", snapshot.vm_state_size, snapshot.disk_size, icount) + more,
        l1=(snapshot.l1_offset, snapshot.l1_entries),
    )


@rule
@given(snapshots=st.lists(SNAPSHOTS, max_size=6), more=st.binary(max_size=100), behind=st.binary(max_size=20))
def test_a_table_says_what_was_written_into_it(
    entry: Build, table: Build, snapshots: list[ImageSnapshot], more: bytes, behind: bytes
) -> None:
    data = table(*(write(entry, snapshot, more) for snapshot in snapshots))
    found = parse_snapshot_table(data + behind, len(snapshots))
    assert (found.snapshots, found.data) == (tuple(snapshots), data)


@rule
@given(
    before=st.lists(SNAPSHOTS, max_size=8),
    kept=st.lists(st.integers(0, 7), max_size=8),
    new=st.lists(SNAPSHOTS, max_size=3),
    behind=st.binary(max_size=20),
)
def test_a_table_is_the_same_whatever_is_known_of_an_earlier_one(
    entry: Build,
    table: Build,
    before: list[ImageSnapshot],
    kept: list[int],
    new: list[ImageSnapshot],
    behind: bytes,
) -> None:
    known = parse_snapshot_table(table(*(write(entry, snapshot) for snapshot in before)), len(before))
    for order in (kept, sorted(set(kept))):
        now = [*(before[index] for index in order if index < len(before)), *new]
        data = table(*(write(entry, snapshot) for snapshot in now)) + behind
        assert parse_snapshot_table(data, len(now), known) == parse_snapshot_table(data, len(now))


def test_of_a_table_without_one_entry_nothing_is_parsed_again(
    entry: Build, table: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry(tag=b"t" * number) for number in range(1, 9)]
    known = parse_snapshot_table(table(*entries), 8)
    monkeypatch.setattr("snaptree.qcow2.table._parse_entry", None)
    for gone in range(8):
        left = parse_snapshot_table(table(*entries[:gone], *entries[gone + 1 :]), 7, known)
        assert left.snapshots == (*known.snapshots[:gone], *known.snapshots[gone + 1 :])


@rule
@given(raw=st.binary(max_size=400), count=st.integers(-1, 70_000))
def test_any_bytes_make_a_table_or_an_image_error(raw: bytes, count: int) -> None:
    with suppress(ImageError):
        assert len(parse_snapshot_table(raw, count).snapshots) == count


@rule
@given(length=st.integers(0, 227))
def test_a_table_that_is_cut_says_how_much_it_needs(entry: Build, table: Build, length: int) -> None:
    whole = table(entry(extra=bytes(24)), entry(tag=b"t" * 99, extra=bytes(16)))
    assert len(whole) == 228
    with pytest.raises(CutShort) as caught:
        parse_snapshot_table(whole[:length], 2)
    assert length < caught.value.needed <= len(whole)


def test_the_64_bit_vm_state_size_wins_where_it_is_there(entry: Build) -> None:
    def size_of(extra: bytes) -> tuple[int, int | None, int | None]:
        (found,) = parse_snapshot_table(entry(vm_state_size=7, extra=extra), 1).snapshots
        return found.vm_state_size, found.disk_size, found.icount

    assert size_of(b"") == (7, None, None)
    assert size_of(bytes(7)) == (7, None, None)
    assert size_of(struct.pack(">Q", 2**40)) == (2**40, None, None)
    assert size_of(struct.pack(">QQ", 0, 5)) == (0, 5, None)
    assert size_of(struct.pack(">QQQ", 1, 5, 9)) == (1, 5, 9)
    assert size_of(struct.pack(">QQQ", 1, 5, 2**64 - 1)) == (1, 5, None)


def test_tags_that_are_no_utf_8_come_back_byte_for_byte(entry: Build) -> None:
    (found,) = parse_snapshot_table(entry(tag=b"caf\xe9"), 1).snapshots
    assert found.tag.encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_a_tag_ends_at_its_first_nul_as_in_qemu(entry: Build) -> None:
    (found,) = parse_snapshot_table(entry(qemu_id=b"1\0002", tag=b"a\0b"), 1).snapshots
    assert (found.qemu_id, found.tag) == ("1", "a")


def test_an_empty_table_needs_no_bytes() -> None:
    assert parse_snapshot_table(b"", 0).snapshots == ()


def test_more_extra_data_than_qemu_accepts_is_damage(entry: Build) -> None:
    assert parse_snapshot_table(entry(extra=bytes(1024)), 1).snapshots
    with pytest.raises(DamagedImage, match="1025 bytes of extra data"):
        parse_snapshot_table(entry(extra=bytes(1025)), 1)


def test_more_entries_than_qemu_accepts_are_damage() -> None:
    with pytest.raises(DamagedImage, match="65537"):
        parse_snapshot_table(b"", 65537)


def test_a_table_longer_than_qemu_accepts_is_damage(entry: Build, table: Build) -> None:
    long = entry(qemu_id=b"i" * 65535, tag=b"t" * 65535)
    count = 64 * 1024 * 1024 // len(long) + 1
    with pytest.raises(DamagedImage, match="longer than 67108864 bytes"):
        parse_snapshot_table((long + bytes(-len(long) % 8)) * count, count)
