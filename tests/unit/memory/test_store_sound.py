"""All pages of a snapshot are looked at before they are mapped, and no damage goes by."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.framework.pagestores import Model, never_synced, pages_of, sid

from snaptree.memory import sound
from snaptree.memory.pages import PAGE, Pages
from snaptree.memory.store import PageStore
from snaptree.model.errors import PagesDamaged

A, B = sid(1), sid(2)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Make a root in few runs, and a child whose pages lie in many."""
    with never_synced():
        store = PageStore.open(tmp_path / "pages", clean=True)
        model = Model()
        model.create(store, A, None, (pages_of(range(1400), range(1500, 2200)), np.arange(1, 2101)))
        odd = pages_of(range(1, 800, 2))
        model.create(store, B, A, (odd, odd + 5000))
        odd = pages_of(range(1, 800, 4))
        model.create(store, sid(3), B, (odd, odd + 9000))
        store.close()
        yield tmp_path / "pages"


def check(directory: Path, id: str) -> None:
    store = PageStore.open(directory, clean=False)
    try:
        sound.check(store, id)
    finally:
        store.close()


def places(directory: Path, id: str) -> list[tuple[Path, int]]:
    """Return the file and the offset of every stored page of a snapshot."""
    store = PageStore.open(directory, clean=False)
    slots: Pages = np.concatenate(list(store.map(id).stored()))
    found = []
    for slot in store.map(id).slots(slots).astype(np.int64).tolist():
        range_ = store.segments.find(slot)
        found.append((store.segments.path(range_), PAGE + (slot - range_[0]) * PAGE))
    store.close()
    return found


@pytest.mark.parametrize("many", [False, True])
def test_a_flipped_bit_anywhere_is_found(directory: Path, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if many:
        monkeypatch.setattr(sound, "_RUNS_MAX", 0)  # what lies in many pieces is copied
    chance = random.Random(7)
    for id in (A, B, sid(3)):
        check(directory, id)
        for path, offset in chance.sample(places(directory, id), 30):
            at = offset + chance.randrange(PAGE)
            fd = os.open(path, os.O_RDWR)
            before = os.pread(fd, 1, at)
            os.pwrite(fd, bytes([before[0] ^ 1 << chance.randrange(8)]), at)
            with pytest.raises(PagesDamaged, match="wrong checksum"):
                check(directory, id)
            os.pwrite(fd, before, at)
            os.close(fd)
        check(directory, id)


def test_a_page_of_another_snapshot_harms_nobody(directory: Path) -> None:
    theirs = set(places(directory, A)) - set(places(directory, B))
    path, offset = min(theirs)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", offset)
    os.close(fd)
    check(directory, B)
    with pytest.raises(PagesDamaged):
        check(directory, A)


def test_a_file_that_is_missing_or_cut_is_found(directory: Path) -> None:
    path = places(directory, A)[0][0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PagesDamaged, match="was cut"):
        check(directory, A)
    path.unlink()
    with pytest.raises(PagesDamaged, match="missing"):
        check(directory, A)


def test_a_page_that_cannot_be_looked_at_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(22, "an older kernel")

    monkeypatch.setattr(sound, "syscall", fail)
    for id in (A, B):
        check(directory, id)
    path, offset = places(directory, A)[3]
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", offset + 9)
    os.close(fd)
    with pytest.raises(PagesDamaged, match="wrong checksum"):
        check(directory, A)
