"""A page store holds what a plain dictionary would, whatever is written, deleted and opened again."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.framework.pagestores import Model, content_of, never_synced, scattered, sid

from snaptree.memory.pages import Layout, Pages, RAMBlock
from snaptree.memory.store import PageStore
from snaptree.model.errors import PageStoreError


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with never_synced():
        yield


LAYOUT: Layout = (RAMBlock("pc.ram", 1030 << 12),)
"""Two leaves, the last not full."""


class AStoreHoldsWhatADictionaryWould(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="snaptree-pages-")
        self.directory = Path(self.folder.name) / "pages"
        self.store = PageStore.open(self.directory, clean=True)
        self.model = Model(LAYOUT)
        self.number = 0

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for id in sorted(self.model.snapshots):
            self.store.delete(id)
        assert list(self.directory.iterdir()) == []
        self.store.close()
        self.folder.cleanup()

    def puts(self, rng: random.Random, base: str | None) -> list[tuple[Pages, Pages]]:
        """Return a few puts; among their pages are zeros, some as in the base, some put before."""
        found: list[tuple[Pages, Pages]] = []
        for _ in range(rng.randrange(4)):
            count = rng.choice((1, 5, 100, 300, self.model.pages) if base is None else (1, 5, 100))
            pages = scattered(rng, count, self.model.pages)
            if found and rng.random() < 0.5:
                pages = found[-1][0][rng.randrange(len(found[-1][0])) :]
            seeds = np.array([rng.randrange(1, 50) for _ in pages], np.int64)
            kind = np.array([rng.randrange(4) for _ in pages])
            seeds[kind == 0] = 0
            if base is not None:
                seeds[kind == 1] = self.model.snapshots[base][pages[kind == 1]]
            if rng.random() < 0.2:
                seeds = np.full(len(pages), seeds[0])
            found.append((pages, seeds))
        return found

    @rule(seed=st.integers(0, 2**32), root=st.integers(0, 5))
    def create(self, seed: int, root: int) -> None:
        rng = random.Random(seed)
        base = rng.choice(sorted(self.model.snapshots)) if self.model.snapshots and root else None
        self.number += 1
        self.model.create(self.store, sid(self.number), base, *self.puts(rng, base))

    @rule(seed=st.integers(0, 2**32))
    def abort(self, seed: int) -> None:
        rng = random.Random(seed)
        writer = self.store.writer(sid(0xFFFF), None, self.model.layout)
        for pages, _ in self.puts(rng, None):
            writer.put(pages, np.ones((len(pages), 4096), np.uint8))
        writer.abort()

    @precondition(lambda self: any(self.store.children(id) for id in self.model.snapshots))
    @rule(seed=st.integers(0, 2**32))
    def delete_a_base(self, seed: int) -> None:
        id = random.Random(seed).choice([id for id in sorted(self.model.snapshots) if self.store.children(id)])
        self.store.delete(id)
        del self.model.snapshots[id]

    @precondition(lambda self: self.model.snapshots)
    @rule(seed=st.integers(0, 2**32))
    def delete(self, seed: int) -> None:
        id = random.Random(seed).choice(sorted(self.model.snapshots))
        self.store.delete(id)
        del self.model.snapshots[id]

    @rule(clean=st.booleans())
    def open_again(self, clean: bool) -> None:
        self.store.close()
        self.store = PageStore.open(self.directory, clean=clean)

    @rule(seed=st.integers(0, 2**32))
    def differing_pages_are_those_that_differ_and_maybe_equal_ones(self, seed: int) -> None:
        ids = sorted(self.model.snapshots)
        if len(ids) < 2:
            return
        one, two = random.Random(seed).sample(ids, 2)
        found = self.store.map(one).differing(self.store.map(two))
        assert (np.diff(found) > 0).all()
        assert set(np.flatnonzero(self.model.snapshots[one] != self.model.snapshots[two])) <= set(found.tolist())

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.store.ids() == set(self.model.snapshots)
        self.model.check(self.store)
        for id, seeds in self.model.snapshots.items():
            stored = [np.empty(0, np.int64), *self.store.map(id).stored()]
            assert np.array_equal(np.concatenate(stored), np.flatnonzero(seeds))
            assert self.store.verify(id, content=True) == []
        assert self.store.unreferenced() == []


TestAStoreHoldsWhatADictionaryWould = AStoreHoldsWhatADictionaryWould.TestCase
TestAStoreHoldsWhatADictionaryWould.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink a failure takes minutes
)


def test_a_page_may_be_put_as_often_as_one_likes(tmp_path: Path) -> None:
    store = PageStore.open(tmp_path / "pages", clean=True)
    model = Model((RAMBlock("pc.ram", 3 << 12),))
    three = np.arange(3)
    model.create(store, sid(1), None, (three, three))
    for base in (None, sid(1)):
        puts = [(three[1:], three[1:] * (10 + n) * (n % 2)) for n in range(20)]
        model.create(store, sid(2), base, *puts, (three[1:], three[:2]), (three, three + 50), (three[1:], three[:2]))
        model.check(store)
        assert store.verify(sid(2), content=True) == []
        store.delete(sid(2))
        del model.snapshots[sid(2)]
    store.delete(sid(1))
    assert list(store.directory.iterdir()) == []


def test_written_says_what_became_of_the_pages(tmp_path: Path) -> None:
    store = PageStore.open(tmp_path / "pages", clean=True)
    model = Model()
    pages = np.arange(100)
    model.create(store, sid(1), None, (pages, pages % 3))
    writer = store.writer(sid(2), sid(1), model.layout)
    seeds = pages % 3
    seeds[:10] = 0
    seeds[20:25] = 9
    writer.put(pages, content_of(seeds))
    written = writer.commit()
    changed_to_zero = int(np.count_nonzero(pages[:10] % 3))
    assert (written.new_pages, written.zero_pages) == (5, changed_to_zero)
    assert written.same_pages == 100 - 5 - changed_to_zero
    files = [store.path(sid(2)), store.segments.path(store.segments.ranges[1])]
    assert written.bytes == sum(path.stat().st_size for path in files)


def test_slots_in_gaps_are_used_when_the_top_is_reached(tmp_path: Path) -> None:
    store = PageStore.open(tmp_path / "pages", clean=True)
    model = Model()
    model.create(store, sid(1), None, (np.arange(5), np.arange(5)))
    store.segments.add((2**32 - 100, 100))
    assert store.segments.room(50) == 2201
    store.segments._ranges = store.segments._ranges[:-1]
    model.create(store, sid(2), sid(1), (np.arange(5), np.arange(5) + 9))
    store.segments.add((2**32 - 100, 100))
    store.segments._ranges = tuple(range for range in store.segments._ranges if range != (1, 2200))
    assert store.segments.room(2000) == 1
    with pytest.raises(PageStoreError, match="room"):
        store.segments.room(2**32 - 2000)
