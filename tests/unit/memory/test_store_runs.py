"""The runs of a block, mapped one over the other, are the snapshot's RAM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import LAYOUT, Model, content_of, never_synced, pages_of, sid

from snaptree.memory.pages import PAGE, Bytes, block_start
from snaptree.memory.runs import MapRun
from snaptree.memory.store import PageStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    with never_synced():
        store = PageStore.open(tmp_path / "pages", clean=True)
        yield store
        store.close()


def mapped(store: PageStore, id: str, block: str) -> Bytes:
    """Return what a block's mapping would hold, made of its runs."""
    size = next(b.size for b in LAYOUT if b.name == block)
    memory = bytearray(size)
    for run in store.runs(id, block):
        assert run.count >= 1
        start, length = run.page_in_block * PAGE, run.count * PAGE
        assert start + length <= size
        assert run.file_offset % PAGE == 0
        data = bytes(length)
        if run.path is not None:
            fd = os.open(run.path, os.O_RDONLY)
            data = os.pread(fd, length, run.file_offset)
            os.close(fd)
        assert len(data) == length
        memory[start : start + length] = data
    return np.frombuffer(memory, np.uint8).reshape(-1, PAGE)


def check(store: PageStore, model: Model) -> None:
    for id in model.snapshots:
        for block in LAYOUT:
            start = block_start(LAYOUT, block.name)
            seeds = model.snapshots[id][start : start + block.size // PAGE]
            assert np.array_equal(mapped(store, id, block.name), content_of(seeds))


def test_runs_are_a_snapshots_ram_also_when_its_bases_are_deleted(store: PageStore) -> None:
    model = Model()
    p = pages_of(range(30), range(1020, 1030), range(1490, 1510), 2199)
    model.create(store, sid(1), None, (p, 1 + p % 5))
    p = pages_of(5, 6, 1025, 1495, 1505, 1800)
    model.create(store, sid(2), sid(1), (p, 10 + p % 5), (pages_of(7, 1499), pages_of(0, 0)))
    p = pages_of(6, range(1100, 1110))
    model.create(store, sid(3), sid(2), (p, 20 + p % 5), (pages_of(7, 8), pages_of(30, 0)))
    model.create(store, sid(4), sid(1), (pages_of(range(2200)), pages_of(range(2200)) % 7))
    check(store, model)
    for gone in (1, 2):
        store.delete(sid(gone))
        del model.snapshots[sid(gone)]
        check(store, model)


def test_a_first_snapshot_is_one_run_and_scattered_changes_are_one_run_each(store: PageStore) -> None:
    model = Model()
    p = pages_of(range(100, 900))
    model.create(store, sid(1), None, (p, p))
    model.create(store, sid(2), sid(1), (pages_of(200, 201, 400), pages_of(1, 2, 0)))
    flat = MapRun(0, 1500, store.segments.path((1, 2200)), PAGE)
    assert list(store.runs(sid(1), "pc.ram")) == [flat]
    delta = store.segments.path(store.segments.ranges[1])
    assert list(store.runs(sid(2), "pc.ram")) == [flat, MapRun(200, 2, delta, PAGE), MapRun(400, 1, None, 0)]
    assert list(store.runs(sid(1), "mem1")) == [MapRun(0, 700, flat.path, PAGE + 1500 * PAGE)]


def test_a_block_that_is_not_there_is_an_error(store: PageStore) -> None:
    Model().create(store, sid(1), None, (pages_of(1), pages_of(1)))
    with pytest.raises(KeyError):
        list(store.runs(sid(1), "pc.rom"))
