"""A segment's file that is lost: nothing that is written afterwards is ever taken for what was in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import Model, content_of, never_synced, pages_of, read_all, sid

from snaptree.memory.store import PageStore
from snaptree.model.errors import PagesDamaged

A, B, C, D, E = map(sid, range(1, 6))


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with never_synced():
        yield


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def directory(tmp_path: Path, model: Model) -> Path:
    """Make a root A, its child B, and B's child C, which is as B."""
    found = tmp_path / "pages"
    store = PageStore.open(found, clean=True)
    model.create_root_and_child(store, A, B)
    model.create(store, C, B)
    store.close()
    return found


def lose(directory: Path, number: int) -> None:
    sorted(directory.glob("*.pages"))[number].unlink()


def assert_refused(store: PageStore, id: str) -> None:
    assert store.verify(id, content=False)
    with pytest.raises(PagesDamaged):
        read_all(store, id)


@pytest.mark.parametrize("base", [A, None])
def test_the_pages_of_a_lost_segment_are_not_those_that_are_written_next(
    directory: Path, model: Model, base: str | None
) -> None:
    lose(directory, -1)
    store = PageStore.open(directory, clean=True)
    p = pages_of(range(2200))
    model.create(store, D, base, (p, 40 + p % 9))
    for lost in (B, C):
        assert_refused(store, lost)
    store.delete(B)
    store.delete(C)
    assert store.verify(D, content=True) == []
    for id in (A, D):
        assert np.array_equal(read_all(store, id), content_of(model.snapshots[id]))
    store.close()


def test_nor_where_the_snapshot_that_they_were_written_for_is_deleted(directory: Path, model: Model) -> None:
    store = PageStore.open(directory, clean=True)
    store.delete(B)  # C, of which nothing was written, has its pages
    store.close()
    lose(directory, -1)
    store = PageStore.open(directory, clean=True)
    p = pages_of(range(2200))
    model.create(store, D, A, (p, 40 + p % 9))
    assert_refused(store, C)
    store.delete(C)
    assert store.verify(D, content=True) == []
    store.close()


def test_where_all_is_lost_a_new_one_is_whole(directory: Path, model: Model) -> None:
    lose(directory, -1)
    lose(directory, -1)
    store = PageStore.open(directory, clean=True)
    for number, id in enumerate((D, E)):
        p = pages_of(range(2200))
        model.create(store, id, None, (p, 40 + number + p % 9))
    for lost in (A, B, C):
        assert_refused(store, lost)
        store.delete(lost)
    for id in (D, E):
        assert np.array_equal(read_all(store, id), content_of(model.snapshots[id]))
    store.close()


def test_an_index_that_cannot_be_read_does_not_keep_others_from_being_written(directory: Path, model: Model) -> None:
    (directory / f"{C}.index").write_bytes(b"nothing")
    store = PageStore.open(directory, clean=True)
    p = pages_of(range(50))
    model.create(store, D, B, (p, 40 + p % 9))
    assert np.array_equal(read_all(store, D), content_of(model.snapshots[D]))
    store.close()
