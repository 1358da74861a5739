"""Damage of every kind is found and named, in bounded time and memory, and never makes anything worse."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import LAYOUT, Model, content_of, never_synced, pages_of, read_all, sid

from snaptree.memory import index, segment
from snaptree.memory.pages import PAGE, RAMBlock
from snaptree.memory.store import PageStore
from snaptree.memory.verify import Seen
from snaptree.model.errors import PagesDamaged, PageStoreError

A, B, C = map(sid, range(1, 4))


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with never_synced():
        yield


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def directory(tmp_path: Path, model: Model) -> Path:
    """Make a root A, its child B, and B's child C."""
    found = tmp_path / "pages"
    store = PageStore.open(found, clean=True)
    model.create_root_and_child(store, A, B)
    model.create(store, C, B, (pages_of(11, 2000), pages_of(50, 51)))
    store.close()
    return found


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.pages"))


def findings(directory: Path, *, content: bool) -> dict[str, list[tuple[str, int, int]]]:
    store = PageStore.open(directory, clean=False)
    found = {
        id: [(d.file.name, d.page, d.count) for d in store.verify(id, content=content)] for id in sorted(store.ids())
    }
    store.close()
    return found


def test_a_flipped_bit_in_any_stored_page_is_found_and_named(directory: Path, model: Model) -> None:
    flat = segments(directory)[0]
    flip(flat, PAGE + 1030 * PAGE + 77, 5)
    assert findings(directory, content=False) == {A: [], B: [], C: []}
    named = [(flat.name, 1030, 1)]
    assert findings(directory, content=True) == {A: named, B: named, C: named}
    store = PageStore.open(directory, clean=False)
    out = np.empty((1, PAGE), np.uint8)
    slot = store.map(B).slots(pages_of(1030))
    with pytest.raises(PagesDamaged, match=f"{flat.name}.*1030"):
        store.read(slot, out)
    store.read(store.map(B).slots(pages_of(1500)), out)
    assert np.array_equal(out, content_of(pages_of(20 + 1500 % 9)))


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_in_any_file_is_found_or_harms_nothing(directory: Path, model: Model, seed: int) -> None:
    rng = random.Random(seed)
    path = rng.choice(sorted(directory.iterdir()))
    header = segment.parse_header(path.read_bytes()[:PAGE]) if path.suffix == ".pages" else None
    places = [rng.randrange(path.stat().st_size)]
    if header is not None:  # most of a flat segment is holes: look at where something is as well
        places = [rng.choice((rng.randrange(60), PAGE + rng.randrange(60 * PAGE), header.table + rng.randrange(240)))]
    flip(path, min(places[0], path.stat().st_size - 1), rng.randrange(8))
    found = findings(directory, content=True)
    store = PageStore.open(directory, clean=False)
    for id in store.ids():
        try:
            right = np.array_equal(read_all(store, id), content_of(model.snapshots[id]))
        except PagesDamaged:
            right = False
        assert right or found[id]
    store.close()


def test_a_page_whose_checksum_was_lost_does_not_become_zero(directory: Path) -> None:
    flat = segments(directory)[0]
    table = segment.parse_header(flat.read_bytes()[:PAGE]).table
    with flat.open("r+b") as file:
        file.seek(table)
        file.write(bytes(4 * 2200))
    assert findings(directory, content=False)[A]
    store = PageStore.open(directory, clean=False)
    with pytest.raises(PagesDamaged, match="lost"):
        read_all(store, A)
    with pytest.raises(PagesDamaged):
        store.read(np.array([5], np.uint32), np.empty((1, PAGE), np.uint8))


@pytest.mark.parametrize("content", [False, True])
def test_a_cut_segment_is_found_in_every_snapshot_that_needs_it(directory: Path, content: bool) -> None:
    delta = segments(directory)[1]
    os.truncate(delta, delta.stat().st_size - 1)
    found = findings(directory, content=content)
    assert not found[A]
    assert {file for file, _, _ in found[B]} == {delta.name} == {file for file, _, _ in found[C]}


@pytest.mark.parametrize("content", [False, True])
def test_a_missing_segment_is_found_in_every_snapshot_that_needs_it(directory: Path, content: bool) -> None:
    segments(directory)[2].unlink()
    found = findings(directory, content=content)
    assert not found[A]
    assert not found[B]
    assert found[C]
    segments(directory)[0].unlink()
    assert all(findings(directory, content=content).values())


def test_a_segment_with_anothers_name_is_not_read(directory: Path) -> None:
    first, second, *_ = segments(directory)
    second.write_bytes(first.read_bytes())
    assert findings(directory, content=False)[B]
    (directory / "00000002-00000001.pages").write_bytes(first.read_bytes())  # lies within the first
    store = PageStore.open(directory, clean=False)
    assert store.segments.strays == ["00000002-00000001.pages"]
    assert [unused.file.name for unused in [*store.verify(A, content=True)]] == []


def test_an_index_of_another_snapshot_is_damage(directory: Path) -> None:
    (directory / f"{B}.index").write_bytes((directory / f"{A}.index").read_bytes())
    assert findings(directory, content=False)[B] == [(f"{B}.index", 0, 0)]


def test_a_snapshot_that_is_not_there_is_damage_and_no_other_error(directory: Path) -> None:
    store = PageStore.open(directory, clean=False)
    with pytest.raises(PagesDamaged, match="missing"):
        store.map(sid(99))
    assert len(store.verify(sid(99), content=True)) == 1


@pytest.mark.parametrize("newer", ["index", "segment"])
def test_what_a_newer_snaptree_wrote_is_not_called_damaged_and_hinders_deletes(directory: Path, newer: str) -> None:
    path = directory / f"{B}.index" if newer == "index" else segments(directory)[1]
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 2)
    size = index.parse_header(path.read_bytes()).size if newer == "index" else PAGE
    data[size - 4 : size] = struct.pack("<I", zlib.crc32(data[: size - 4]))
    path.write_bytes(data)
    store = PageStore.open(directory, clean=False)
    with pytest.raises(PageStoreError, match="version") as raised:
        read_all(store, B)
    assert not isinstance(raised.value, PagesDamaged)
    assert "Update" in raised.value.remedy
    if newer == "index":
        with pytest.raises(PageStoreError, match="deleted"):
            store.delete(A)
        assert store.has(A)


def damage_header(path: Path) -> None:
    flip(path, 20)


def damage_root(path: Path) -> None:
    flip(path, path.stat().st_size - 8)


@pytest.mark.parametrize("damage", [damage_header, damage_root, Path.unlink])
@pytest.mark.parametrize("victim", [A, B, C])
@pytest.mark.parametrize("gone", [A, B, C])
def test_deleting_beside_a_damaged_index_harms_no_other_snapshot(
    directory: Path, model: Model, damage: Callable[[Path], None], victim: str, gone: str
) -> None:
    damage(directory / f"{victim}.index")
    store = PageStore.open(directory, clean=True)
    store.delete(gone)
    rest = {A, B, C} - {victim, gone}
    model.check(store, rest)
    store.delete(victim)
    model.check(store, rest)
    for id in sorted(rest):
        store.delete(id)
        rest -= {id}
        model.check(store, rest)
    assert not list(directory.glob("*.index"))


def test_deleting_beside_a_damaged_leaf_harms_no_other_snapshot(directory: Path, model: Model) -> None:
    delta = segments(directory)[1]
    header = segment.parse_header(delta.read_bytes()[:PAGE])
    flip(delta, PAGE + (header.count - 2) * PAGE + 40)  # B's first leaf; C shares pages that it names
    store = PageStore.open(directory, clean=True)
    with pytest.raises(PagesDamaged):
        read_all(store, B)
    store.delete(A)
    model.check(store, {C})
    store.delete(B)
    model.check(store, {C})


def test_a_shared_page_is_read_once_for_all_snapshots(directory: Path) -> None:
    flip(segments(directory)[0], PAGE + 1030 * PAGE)
    store = PageStore.open(directory, clean=False)
    seen = Seen()
    first = store.verify(A, content=True, seen=seen)
    segments(directory)[0].write_bytes(segments(directory)[0].read_bytes())
    flip(segments(directory)[0], PAGE + 1030 * PAGE)
    assert store.verify(B, content=True, seen=seen) == first != []


def resealed(data: bytes, header_size: int) -> bytes:
    head = data[: header_size - 4]
    root = data[header_size:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + root + struct.pack("<I", zlib.crc32(root))


@pytest.mark.parametrize("seed", range(60))
def test_hostile_indexes_with_right_checksums_end_in_an_error_of_ours(directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = directory / f"{B}.index"
    data = bytearray(path.read_bytes())
    size = index.parse_header(bytes(data)).size
    for _ in range(rng.randrange(1, 4)):
        if rng.random() < 0.3:
            data[rng.randrange(size)] = rng.randrange(256)
        else:
            place = size + 8 * rng.randrange(3)
            value = rng.choice(
                (
                    rng.getrandbits(64),
                    rng.randrange(4) << 48
                    | rng.randrange(1, 1025) << 32
                    | rng.choice((1, 2, 2201, 2**32 - 1, 2**32 - 1024, rng.randrange(3000))),
                )
            )
            data[place : place + 8] = struct.pack("<Q", value)
    path.write_bytes(resealed(bytes(data), size))
    tracemalloc.start()
    store = PageStore.open(directory, clean=False)
    for action in (
        lambda: read_all(store, B),
        lambda: list(store.runs(B, "pc.ram")),
        lambda: list(store.map(B).stored()),
        lambda: store.map(B).differing(store.map(A)),
        store.unreferenced,
        lambda: store.verify(B, content=True),
        lambda: store.writer(sid(9), B, LAYOUT).put(pages_of(1, 2000), content_of(pages_of(5, 6))),
    ):
        # A KeyError or ValueError only of another layout.
        with suppress(PageStoreError, KeyError, ValueError):
            action()
        if store.writing is not None:
            store.writing.abort()
    store.close()
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_no_index_and_no_segment(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.choice((index.MAGIC, segment.MAGIC, b"")) + struct.pack("<I", 1) + rng.randbytes(rng.randrange(200))
    with pytest.raises((PagesDamaged, index.NewerVersion)):
        index.parse_header(data)
    with pytest.raises((PagesDamaged, index.NewerVersion)):
        segment.parse_header(data)


def test_odd_files_in_the_directory_are_no_obstacle(directory: Path, model: Model) -> None:
    (directory / "notes.txt").write_text("mine")
    (directory / "00000000-00000001.pages").write_bytes(b"x")
    (directory / "ffffffff-ffffffff.pages").write_bytes(b"x")
    os.mkfifo(directory / f"{sid(7)}.index")
    os.mkfifo(directory / "7fffffff-00000001.pages")
    (directory / f"{sid(8)}.index").symlink_to(directory / f"{A}.index")
    store = PageStore.open(directory, clean=False)
    model.check(store)
    for id in (sid(7), sid(8)):
        with pytest.raises(PageStoreError):
            store.map(id)
    with pytest.raises(PagesDamaged, match="regular"):
        store.read(np.array([0x7FFFFFFF], np.uint32), np.empty((1, PAGE), np.uint8))


def test_misuse_is_an_error_and_changes_nothing(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    other = (RAMBlock("pc.ram", PAGE),)
    with pytest.raises(ValueError, match="layout"):
        store.writer(sid(9), A, other)
    with pytest.raises(ValueError, match="written"):
        store.writer(A, None, LAYOUT)
    writer = store.writer(sid(9), A, LAYOUT)
    with pytest.raises(ValueError, match="written"):
        store.writer(sid(10), A, LAYOUT)
    with pytest.raises(ValueError, match="base"):
        store.delete(A)
    for pages in (pages_of(2, 1), pages_of(1, 1), pages_of(-1), pages_of(2200)):
        with pytest.raises(ValueError, match="pages"):
            writer.put(pages, content_of(np.abs(pages)))
    with pytest.raises(ValueError, match="content"):
        writer.put(pages_of(1), content_of(pages_of(1, 2)))
    writer.abort()
    with pytest.raises(ValueError, match="ended"):
        writer.commit()
    with pytest.raises(IndexError):
        store.map(A).slots(pages_of(2200))
    store.delete(sid(77))
    model.check(store)
    assert store.unreferenced() == []
