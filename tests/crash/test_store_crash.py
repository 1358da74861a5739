"""Whenever a process dies, the disk is full or the power fails, old snapshots are whole and nothing is left behind."""

from __future__ import annotations

import ctypes
import errno
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import Crash, Model, Tape, dying, never_synced, pages_of, sid

from snaptree.memory import disk
from snaptree.memory.pages import PAGE, Layout, RAMBlock
from snaptree.memory.store import PageStore
from snaptree.model.errors import PageStoreError

SMALL: Layout = (RAMBlock("pc.ram", 64 << 12),)
A, B, C, D, NEW = map(sid, range(1, 6))


@pytest.fixture
def model() -> Model:
    return Model(SMALL)


def grow(model: Model, store: PageStore) -> None:
    """Make A with the children B and D, and C below B; they share pages and leaves in every way."""
    p = pages_of(range(40), 45, 50)
    model.create(store, A, None, (p, 1 + p % 9))
    p = pages_of(range(10, 20), 55)
    model.create(store, B, A, (p, 20 + p % 9))
    p = pages_of(range(15, 25), 58)
    model.create(store, C, B, (p, 40 + p % 9))
    model.create(store, D, A, (pages_of(3, 12), pages_of(77, 78)))  # A alone has its page 12


def create(model: Model, store: PageStore) -> None:
    p = pages_of(range(12, 30), 50)
    model.write(store, NEW, B, (p, 60 + p % 9), (pages_of(13, 14), pages_of(0, 99)))


def create_flat(model: Model, store: PageStore) -> None:
    p = pages_of(range(12, 30), 50)
    model.write(store, NEW, None, (p, 60 + p % 9), (pages_of(13, 14), pages_of(0, 99)))


def delete_root(model: Model, store: PageStore) -> None:
    store.delete(A)


def delete_middle(model: Model, store: PageStore) -> None:
    store.delete(B)


def delete_leaf(model: Model, store: PageStore) -> None:
    store.delete(C)


Operation = Callable[[Model, PageStore], None]
OPERATIONS = [create, create_flat, delete_root, delete_middle, delete_leaf]
GONE: dict[Operation, str] = {delete_root: A, delete_middle: B, delete_leaf: C}
THERE: dict[Operation, str] = {create: NEW, create_flat: NEW}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest) -> Operation:
    found: Operation = request.param
    return found


@pytest.fixture
def grown(tmp_path: Path, model: Model) -> Path:
    directory = tmp_path / "grown"
    with never_synced():
        store = PageStore.open(directory, clean=True)
        grow(model, store)
        store.close()
    return directory


def copies(grown: Path) -> Iterator[Path]:
    for number in range(1000):
        copy = grown.with_name(f"copy-{number}")
        shutil.copytree(grown, copy)
        yield copy
        shutil.rmtree(copy)


def check_after(model: Model, directory: Path, operation: Operation, done: bool) -> None:
    """Open the store after a crash: all is whole, and when all is deleted nothing is left.

    :param done: the operation had returned.
    """
    with never_synced():
        store = PageStore.open(directory, clean=True)
        here = store.ids()
        expected = set(model.snapshots)
        gone, there = GONE.get(operation), THERE.get(operation)
        if gone is not None and (done or gone not in here):
            expected.remove(gone)
        if there is not None and (done or there in here):
            expected.add(there)
            model = expected_after(model, operation)
        assert here == expected
        model.check(store, here)
        for id in here:
            assert store.verify(id, content=True) == []
            assert store.headers[id].base in {None, *here}  # type: ignore[union-attr]
        assert store.unreferenced() == []
        for range in store.segments.ranges:  # what holds nothing is zero: a mapping of a flat segment shows it
            segment = store.segments.open(range)
            content = np.empty((range[1], PAGE), np.uint8)
            segment.read(np.arange(range[1]), np.arange(range[1]), content)
            assert np.array_equal(segment.checksums(np.arange(range[1])) != 0, content.any(axis=1))
        assert not [path for path in directory.iterdir() if path.suffix not in (".index", ".pages")]
        store.delete(A if gone is None else gone)  # again, or now: nobody else is harmed
        rest = here - {A if gone is None else gone}
        model.check(store, rest)
        for id in sorted(rest):
            store.delete(id)
        assert list(directory.iterdir()) == []
        store.close()


def expected_after(model: Model, operation: Operation) -> Model:
    found = Model(SMALL)
    base = None if operation is create_flat else B
    seeds = np.zeros(model.pages, np.int64) if base is None else model.snapshots[base].copy()
    p = pages_of(range(12, 30), 50)
    seeds[p] = 60 + p % 9
    seeds[13], seeds[14] = 0, 99
    found.snapshots = {**model.snapshots, NEW: seeds}
    return found


def test_a_process_that_dies_at_any_call_harms_nothing(grown: Path, model: Model, operation: Operation) -> None:
    for count, copy in enumerate(copies(grown)):
        with never_synced():
            store = PageStore.open(copy, clean=True)
            try:
                with dying(count):
                    operation(model, store)
                done = True
            except Crash:
                done = False
        store.segments.close()  # only its descriptors: the process is dead
        check_after(model, copy, operation, done)
        if done:
            assert count > 5
            return
    pytest.fail("it never ended")


def test_a_process_that_dies_at_a_trace_point_harms_nothing(grown: Path, model: Model, operation: Operation) -> None:
    passed: list[str] = []
    for count, copy in enumerate(copies(grown)):
        passed.clear()

        def step(name: str, count: int = count) -> None:
            passed.append(name)
            if len(passed) > count:
                raise Crash

        with never_synced():
            store = PageStore.open(copy, clean=True, trace=step)
            try:
                operation(model, store)
                done = True
            except Crash:
                done = False
        store.segments.close()
        check_after(model, copy, operation, done)
        if done:
            expected = {
                "create": ["pages.segment-synced", "pages.staged", "pages.segment-committed", "pages.index-committed"],
                "delete": ["pages.deleting", "pages.punched", "pages.freed", "pages.deleted"],
            }[operation.__name__.split("_")[0]]
            assert [name for name in passed if name in expected] == expected
            return
    pytest.fail("it never ended")


def test_a_crash_while_cleaning_up_after_a_crash_harms_nothing(grown: Path, model: Model, operation: Operation) -> None:
    rng = random.Random(7)
    for first in range(0, 1000, 3):
        copy = grown.with_name("copy")
        shutil.copytree(grown, copy)
        done = False
        with never_synced():
            store = PageStore.open(copy, clean=True)
            try:
                with dying(first):
                    operation(model, store)
                done = True
            except Crash:
                store.segments.close()
            for _ in range(6):
                try:
                    with dying(rng.randrange(8)):
                        PageStore.open(copy, clean=True).segments.close()
                except Crash:
                    continue
        check_after(model, copy, operation, done)
        shutil.rmtree(copy)
        if done:
            return


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_a_power_cut_at_any_moment_harms_nothing(grown: Path, model: Model, operation: Operation, keep: float) -> None:
    """What was synced is there, and any part of the rest."""
    rng = random.Random(1)
    copy = grown.with_name("taped")
    shutil.copytree(grown, copy)
    tape = Tape(copy)
    with never_synced():
        store = PageStore.open(copy, clean=True)
        with tape.recording():
            operation(model, store)
        store.close()
    seen = set()
    for count in range(len(tape.calls) + 1):
        for _ in range(6 if 0 < keep < 1 else 1):
            files = tape.after_power_cut(count, rng, keep)
            done = count == len(tape.calls)
            state = frozenset((name, hash(data)) for name, data in files.items()), done
            if state in seen:
                continue
            seen.add(state)
            cut = grown.with_name("cut")
            cut.mkdir(mode=0o700)
            for name, data in files.items():
                (cut / name).write_bytes(data)
            check_after(model, cut, operation, done)
            shutil.rmtree(cut)
    assert len(seen) > 2


@pytest.mark.parametrize("operation", [create, create_flat])
def test_a_write_that_finds_the_disk_full_leaves_nothing(grown: Path, model: Model, operation: Operation) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    before = {path.name: path.read_bytes() for path in grown.iterdir()}
    for count in range(1000):
        with never_synced():
            store = PageStore.open(grown, clean=True)
            try:
                with dying(count, full):
                    operation(model, store)
                break
            except PageStoreError as error:
                assert "No space left" in error.message  # noqa: PT017
                assert "room" in error.remedy  # noqa: PT017
            assert {path.name: path.read_bytes() for path in grown.iterdir()} == before
            assert store.ids() == set(model.snapshots)
            model.write(store, sid(99), B, (pages_of(1), pages_of(5)))  # the store goes on
            store.delete(sid(99))
            store.close()
    assert count > 5


def test_a_delete_that_fails_goes_on_when_it_is_tried_again(grown: Path, model: Model) -> None:
    for count, copy in enumerate(copies(grown)):
        with never_synced():
            store = PageStore.open(copy, clean=True)
            try:
                with dying(count, OSError(errno.EIO, "Input/output error")):
                    store.delete(A)
                return
            except PageStoreError:
                assert store.has(B)
            if store.has(A):
                model.check(store)
            store.delete(A)
            model.check(store, {B, C, D})
            assert store.base(B) is None
            store.close()
            check_after(model, copy, delete_root, done=True)


def test_where_no_hole_can_be_punched_zeros_are_written(
    grown: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(disk, "_fallocate", unsupported)
    with never_synced():
        store = PageStore.open(grown, clean=True)
        store.delete(A)
        model.check(store, {B, C, D})
        store.delete(B)
        model.check(store, {C, D})
        for id in (C, D):
            store.delete(id)
        assert list(grown.iterdir()) == []
        store.close()
