"""What a QEMU maps stays as it is, whatever is deleted, until that QEMU ends; then the space comes back."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import LAYOUT, Crash, Model, content_of, dying, never_synced, pages_of, sid

from snaptree.memory.pages import PAGE, Bytes, block_start
from snaptree.memory.store import PageStore
from snaptree.places import mapped
from snaptree.places.lock import SupervisorLock

PARENT, MAPPED, CHILD, COUSIN = map(sid, range(1, 5))


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with never_synced():
        yield


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "pages"


@pytest.fixture
def model(directory: Path) -> Model:
    """Make four snapshots that share pages with each other, and have some for themselves."""
    model = Model()
    store = PageStore.open(directory, clean=True)
    p = pages_of(range(40), range(1000, 1100), 2199)
    model.create(store, PARENT, None, (p, 1 + p % 5))
    p = pages_of(range(20, 60), range(1050, 1060))
    model.create(store, MAPPED, PARENT, (p, 10 + p % 7), (pages_of(5, 6), pages_of(0, 0)))
    p = pages_of(range(30, 35), range(1000, 1010))
    model.create(store, CHILD, MAPPED, (p, 20 + p % 3))
    p = pages_of(range(10, 25))
    model.create(store, COUSIN, PARENT, (p, 30 + p % 3))
    store.close()
    return model


def hold(store: PageStore, id: str) -> SupervisorLock:
    """Say that a QEMU maps a snapshot, and let whoever has the store open know."""
    lock = mapped.hold(store.directory, id)
    assert lock is not None
    store.mapped.add(id)
    return lock


class Mapping:
    """A snapshot's RAM, mapped by its runs as QEMU does it, and the lock that says so."""

    def __init__(self, store: PageStore, id: str) -> None:
        self.lock = hold(store, id)
        self._pieces = []
        for block in LAYOUT:
            for run in store.runs(id, block.name):
                size = run.count * PAGE
                mapping = mmap.mmap(-1, size)
                if run.path is not None:
                    fd = os.open(run.path, os.O_RDONLY)
                    mapping = mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=run.file_offset)
                    os.close(fd)
                start = block_start(LAYOUT, block.name) + run.page_in_block
                self._pieces.append((start, np.frombuffer(mapping, np.uint8).reshape(-1, PAGE)))

    def content(self) -> Bytes:
        pages = np.zeros((sum(block.size for block in LAYOUT) // PAGE, PAGE), np.uint8)
        for start, piece in self._pieces:
            pages[start : start + len(piece)] = piece
        return pages

    def assert_is(self, model: Model, seeds: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        assert np.array_equal(self.content(), content_of(seeds))


@pytest.mark.parametrize("order", [(MAPPED, PARENT, CHILD, COUSIN), (PARENT, COUSIN, CHILD, MAPPED), (CHILD, MAPPED)])
def test_what_is_mapped_stays_whatever_is_deleted_and_goes_when_qemu_has_ended(
    directory: Path, model: Model, order: tuple[str, ...]
) -> None:
    store = PageStore.open(directory, clean=True)
    mapping = Mapping(store, MAPPED)
    seeds = model.snapshots[MAPPED]
    for id in order:
        store.delete(id)
        store.delete(id)
        del model.snapshots[id]
        mapping.assert_is(model, seeds)
        model.check(store)
        assert store.ids() == set(model.snapshots)
        assert store.unreferenced() == []
    # Another one that opens it takes nothing away either.
    store.close()
    store = PageStore.open(directory, clean=True)
    mapping.assert_is(model, seeds)
    assert store.unreferenced() == []
    mapping.lock.release()
    store.close()  # and whoever had it open gives the space back
    store = PageStore.open(directory, clean=False)
    assert store.ids() == set(model.snapshots)
    assert store.unreferenced() == []
    model.check(store)
    assert not [path for path in directory.iterdir() if path.suffix in (mapped.MAPPED, mapped.LEAVING)]
    if not model.snapshots:
        assert list(directory.iterdir()) == []


def test_a_snapshot_that_was_mapped_is_deleted_like_any_other(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    hold(store, MAPPED).release()
    store.delete(MAPPED)
    del model.snapshots[MAPPED]
    assert store.unreferenced() == []
    model.check(store)
    assert not list(directory.glob(f"{MAPPED}*"))


def test_what_was_mapped_by_a_qemu_that_has_ended_leaves_no_file_for_long(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    hold(store, MAPPED).release()
    store.close()
    store = PageStore.open(directory, clean=True)
    assert not list(directory.glob("*.mapped"))
    model.check(store)


def test_only_one_qemu_maps_a_snapshot_and_none_one_that_is_to_go(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    lock = hold(store, MAPPED)
    assert mapped.hold(directory, MAPPED) is None
    store.delete(MAPPED)
    assert mapped.hold(directory, MAPPED) is None
    lock.release()


def test_pages_that_are_not_mapped_after_all_are_freed_at_once(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    lock = hold(store, MAPPED)
    mapped.let_go(directory, MAPPED)
    store.delete(MAPPED)
    del model.snapshots[MAPPED]
    assert not list(directory.glob(f"{MAPPED}*"))
    assert store.unreferenced() == []
    model.check(store)
    lock.release()


def test_a_delete_dies_at_any_step_while_qemu_lives_and_after(directory: Path, model: Model) -> None:
    """The same store, and at each time one step further."""
    seeds = model.snapshots[MAPPED]
    store = PageStore.open(directory, clean=True)
    mapping = Mapping(store, MAPPED)
    deleted = False
    for after in count():
        with dying(after) as seen:
            try:
                store.delete(MAPPED)
                deleted = True
            except Crash:
                pass
        store = PageStore.open(directory, clean=True)
        mapping.assert_is(model, seeds)
        model.check(store, set(model.snapshots) - {MAPPED})
        if deleted:
            break
        assert len(seen) == after
    assert MAPPED not in store.ids()
    del model.snapshots[MAPPED]
    mapping.lock.release()
    for after in count():
        with dying(after):
            try:
                store = PageStore.open(directory, clean=True)
                break
            except Crash:
                pass
        model.check(PageStore.open(directory, clean=False))
    assert after > 5
    model.check(store)
    assert store.unreferenced() == []
    assert not list(directory.glob(f"{MAPPED}*"))
