"""A page store holds what a plain dictionary would, whatever is written, deleted and opened again."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.framework.pagestores import Model, never_synced, scattered, sid

from snaptree.memory.pages import Pages
from snaptree.memory.store import PageStore


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with never_synced():
        yield


class AStoreHoldsWhatADictionaryWould(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="snaptree-pages-")
        self.directory = Path(self.folder.name) / "pages"
        self.store = PageStore.open(self.directory, clean=True)
        self.model = Model()
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
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
