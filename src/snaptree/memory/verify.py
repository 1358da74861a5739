"""Finding damage in a page store, and space that nobody uses.  Not for: mending either."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..model.errors import PagesDamaged
from .index import INDEX, Kind, kinds_of, slots_of
from .map import CHUNK, PageMap
from .pages import LEAF, PAGE, Pages, Slots, chunks, runs

if TYPE_CHECKING:
    from .store import PageStore

_DAMAGES_MAX: Final = 1000
"""More findings about one snapshot help nobody."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is wrong.

    :param file: the damaged or missing file.
    :param page: the first page of RAM that it harms, and ``count`` is how many; 0 and 0 where it harms all.
    :param sentence: what is wrong.
    """

    file: Path
    page: int
    count: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Unused:
    """Space that no snapshot uses.

    :param file: where it is; ``pages`` is how many stored pages of it nobody uses.
    """

    file: Path
    pages: int


class Seen:
    """What was found of slots already, so that verifying many snapshots reads each page once."""

    def __init__(self) -> None:
        self._state: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def of(self, range: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the state of a segment's slots, to read and to change: 0 unknown, 1 right, 2 wrong."""
        return self._state.setdefault(range, np.zeros(range[1], np.uint8))


def verify(store: PageStore, id: str, *, content: bool, seen: Seen | None = None) -> list[Damage]:
    """Return everything that is wrong with a snapshot: nothing where it is whole.

    :param content: read every page and verify its checksum; without it only indexes, leaves and lengths of files.
    :param seen: hand the same to the next snapshot's verify.
    :raises PageStoreError: where something cannot be read at all.
    """
    try:
        map = store.read_map(id, INDEX)
    except PagesDamaged as error:
        return [Damage(store.path(id), 0, 0, error.message)]
    seen = seen or Seen()
    found: list[Damage] = []
    for leaves in chunks(np.flatnonzero(map.root), CHUNK):
        for leaf in leaves.tolist():
            _verify_leaf(store, map, leaf, found, content=content, seen=seen)
            if len(found) >= _DAMAGES_MAX:
                return found
    return found


def _verify_leaf(store: PageStore, map: PageMap, leaf: int, found: list[Damage], *, content: bool, seen: Seen) -> None:
    first = leaf * LEAF
    try:
        slots = map.tables(np.array([leaf]))[0]
    except PagesDamaged as error:
        slot = int(slots_of(map.root[leaf : leaf + 1])[0])
        _add(found, Damage(_file(store, slot), first, min(LEAF, map.pages - first), error.message))
        return
    columns = np.flatnonzero(slots)
    columns = columns[np.argsort(slots[columns], kind="stable")]
    known = store.segments.known(slots[columns].astype(np.int64))
    for column in columns[~known].tolist():
        _add(found, Damage(store.directory, first + column, 1, "The file that held this page is missing."))
    columns = columns[known]
    here = slots[columns].astype(np.int64)
    for range, start, end in store.segments.split(here):
        part = np.sort(columns[start:end])
        path = store.segments.path(range)
        try:
            store.segments.open(range)
            wrong = _wrong(store, slots[part], range, seen) if content else np.empty(0, np.int64)
        except PagesDamaged as error:
            _add(found, Damage(path, first + int(part[0]), len(part), error.message))
            continue
        for low, high in runs(part[wrong]):
            page = first + int(part[wrong][low])
            _add(found, Damage(path, page, high - low, "The content has the wrong checksum."))


def _wrong(store: PageStore, slots: Slots, range: tuple[int, int], seen: Seen) -> Pages:
    """Return the positions of slots, all in one segment, whose pages are not what was written."""
    state = seen.of(range)
    indices = slots.astype(np.int64) - range[0]
    new = np.flatnonzero(state[indices] == 0)
    if len(new):
        content = np.empty((len(new), PAGE), np.uint8)
        wrong = store.segments.wrong(slots[new], content)
        state[indices[new]] = 1
        state[indices[new[wrong]]] = 2
    return np.flatnonzero(state[indices] == 2)


def _file(store: PageStore, slot: int) -> Path:
    try:
        return store.segments.path(store.segments.find(slot))
    except PagesDamaged:
        return store.directory


def _add(found: list[Damage], damage: Damage) -> None:
    """Add a damage, or make the last one longer where it goes on there."""
    if found:
        last = found[-1]
        if (last.file, last.sentence, last.page + last.count) == (damage.file, damage.sentence, damage.page):
            found[-1] = Damage(last.file, last.page, last.count + damage.count, last.sentence)
            return
    found.append(damage)


def usage(directory: Path) -> int:
    """Return how many bytes all files in a directory take on the disk.

    :raises OSError: where it cannot be read.
    """
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue  # removed meanwhile
    return total


def unreferenced(store: PageStore) -> list[Unused]:
    """Return what no snapshot uses, of each file.  It reads the maps of all snapshots.

    Where a delete has begun and was not ended, what it will free counts.  Something staged counts too.

    :raises PagesDamaged: where a snapshot's map is damaged: then nobody can say what it uses.
    """
    used: dict[tuple[int, int], NDArray[np.bool_]] = {}
    done: set[int] = set()
    for id in sorted(store.headers):
        map = store.read_map(id, INDEX)
        new = np.array([leaf for leaf, entry in enumerate(map.root.tolist()) if entry and entry not in done], np.int64)
        done.update(map.root[new].tolist())
        for leaves in chunks(new, CHUNK):
            slots = map.tables(leaves).reshape(-1).astype(np.int64)
            tables = kinds_of(map.root[leaves]) == Kind.TABLE
            slots = np.unique(np.concatenate([slots[slots != 0], slots_of(map.root[leaves[tables]])]))
            for range, start, end in store.segments.split(slots):
                used.setdefault(range, np.zeros(range[1], np.bool_))[slots[start:end] - range[0]] = True
    found = [Unused(store.directory / name, _stored_in(store.directory / name)) for name in store.staged]
    for range in store.segments.ranges:
        if range in store.borrowed:
            continue  # its owner knows
        stored = store.segments.checksums(np.arange(range[0], sum(range), dtype=np.int64)) != 0
        unused = int(np.count_nonzero(stored & ~used.get(range, np.zeros(1, np.bool_))))
        if unused:
            found.append(Unused(store.segments.path(range), unused))
    found += [Unused(store.directory / name, _stored_in(store.directory / name)) for name in store.segments.strays]
    return found


def _stored_in(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512 // PAGE
    except FileNotFoundError:
        return 0
