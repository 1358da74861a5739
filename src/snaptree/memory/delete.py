"""Deleting a snapshot's pages.  Not for: the snapshot's disks, its catalog entry, or whether it may be deleted.

Step by step, each idempotent, so that after a crash in the middle the same steps end it:

1. The index is renamed ``.deleting``: now it is no snapshot any more.
2. Pages that neither its base nor its children have at the same place are punched out; when that is durable, their
   checksums are taken away; then the same with its leaves.
3. The index is renamed ``.freed``: from here nothing is compared any more.
4. Its children get its base as theirs; segments that hold nothing are removed; at last the index.

A slot is only shared along unbroken lines from bases to children, so the neighbours in the tree are enough to ask.
Where the tree is not known, since an index is damaged or missing, all snapshots are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from ..model.errors import PagesDamaged, PageStoreError
from . import disk
from .index import DELETING, FREED, INDEX, INDEX_MAX, STAGED, IndexHeader, Kind, kinds_of, slots_of, with_base
from .map import PageMap
from .pages import Pages, chunks
from .writer import write_staged

if TYPE_CHECKING:
    from .store import PageStore

_CHUNK: Final = 64
"""Leaves that are compared together."""


def delete(store: PageStore, id: str) -> None:
    """Delete a snapshot, or end its delete.  See :meth:`PageStore.delete`."""
    for other in sorted(set(store.pending) - {id}):
        finish(store, other)
    if id in store.headers:
        for name, header in store.headers.items():
            # One that is damaged is lost, and needs nothing.  One that is whole, but not for us, may need anything.
            if isinstance(header, PageStoreError) and not isinstance(header, PagesDamaged):
                raise PageStoreError(
                    f"Nothing can be deleted while the index of {name} cannot be read: {header.message}", header.remedy
                )
        with disk.failing("It cannot be deleted", store.path(id)):
            disk.rename(store.path(id), store.path(id, DELETING))
        store.pending[id] = DELETING
        del store.headers[id]
        store.forget(id)
        with disk.failing("It cannot be deleted", store.path(id, DELETING)):
            disk.sync_directory(store.directory)
        store.trace("pages.deleting")
    if id in store.pending:
        finish(store, id)


def finish(store: PageStore, id: str) -> None:
    """Do all steps of a delete that has begun.

    :raises PageStoreError: where the store cannot be written.
    """
    suffix = store.pending[id]
    header = store.read_header(id, suffix)
    if isinstance(header, PageStoreError) and not isinstance(header, PagesDamaged):
        raise header
    with disk.failing("Its delete cannot be ended", store.path(id, suffix)):
        if suffix == DELETING:
            touched = _free(store, id, header)
            store.leaves.forget()
            disk.rename(store.path(id, DELETING), store.path(id, FREED))
            store.pending[id] = FREED
            disk.sync_directory(store.directory)
            store.trace("pages.freed")
        else:
            touched = set(store.segments.ranges)
        if isinstance(header, IndexHeader):
            _give_base(store, sorted(store.children(id)), header.base)
        remove_empty(store, touched)
        disk.unlink(store.path(id, FREED))
        disk.sync_directory(store.directory)
    del store.pending[id]
    store.trace("pages.deleted")


def remove_empty(store: PageStore, ranges: Iterable[tuple[int, int]]) -> None:
    """Remove those of these segments that hold nothing."""
    for range in sorted(ranges):
        try:
            empty = store.segments.open(range).is_empty()
        except PagesDamaged:
            continue
        if empty:
            store.segments.drop(range)
            store.trace("pages.segment-removed")


def _give_base(store: PageStore, children: Sequence[str], base: str | None) -> None:
    for child in children:
        path = store.path(child)
        with path.open("rb") as file:
            data = file.read(INDEX_MAX + 1)
        staged = store.path(child, INDEX + STAGED)
        write_staged(staged, with_base(data, base))
        disk.rename(staged, path)
        header = store.headers[child]
        if isinstance(header, IndexHeader):
            store.headers[child] = replace(header, base=base)
        store.forget(child)
        store.trace("pages.base-changed")
    if children:
        disk.sync_directory(store.directory)


def _free(store: PageStore, id: str, header: IndexHeader | PageStoreError) -> set[tuple[int, int]]:
    """Free what only this snapshot has; return the segments that it was in."""
    try:
        mine = store.read_map(id, DELETING)
    except PagesDamaged:
        return set()  # nobody can say what it has
    neighbours = _neighbours(store, mine)
    leaves = np.flatnonzero(mine.root)
    for other in neighbours:
        leaves = leaves[mine.root[leaves] != other.root[leaves]]
    pages = [_alone(mine, neighbours, part) for part in chunks(leaves, _CHUNK)]
    tables = leaves[kinds_of(mine.root[leaves]) == Kind.TABLE]
    touched = _release(store, np.concatenate([np.empty(0, np.int64), *pages]), "pages.punched")
    return touched | _release(store, slots_of(mine.root[tables]), "pages.leaves-punched")


def _neighbours(store: PageStore, mine: PageMap) -> list[PageMap]:
    """Return the maps of all snapshots that may share something with this one."""
    headers = store.headers
    known = {*headers, *store.pending, None}
    if all(isinstance(header, IndexHeader) and header.base in known for header in headers.values()) and (
        mine.base in known
    ):
        ids = store.children(mine.id) | ({mine.base} & set(headers))
    else:
        ids = set(headers)
    found = []
    for id in sorted(filter(None, ids)):
        try:
            other = store.map(id)
        except PagesDamaged:
            continue
        if other.layout == mine.layout:  # what has another layout never had it as base
            found.append(other)
    return found


def _alone(mine: PageMap, neighbours: Sequence[PageMap], leaves: Pages) -> Pages:
    """Return the slots in these leaves that no neighbour has at the same place."""
    try:
        slots = mine.tables(leaves, checked=False)  # a delete that began before a crash has left fewer pages
        for other in neighbours:
            compared = np.flatnonzero(other.root[leaves])
            theirs = other.tables(leaves[compared])
            slots[compared] = np.where(slots[compared] == theirs, 0, slots[compared])
    except PagesDamaged:
        if len(leaves) == 1:
            return np.empty(0, np.int64)  # who has what cannot be said: better that space is lost
        return np.concatenate([_alone(mine, neighbours, part) for part in chunks(leaves, 1)])
    return np.asarray(slots[slots != 0], np.int64)


def _release(store: PageStore, slots: Pages, step: str) -> set[tuple[int, int]]:
    """Free slots, durably before their checksums go; return the segments that they were in."""
    slots = np.unique(slots)
    slots = slots[store.segments.known(slots)]
    touched = []
    for range, start, end in store.segments.split(slots):
        try:
            segment = store.segments.open(range)
        except PagesDamaged:
            continue  # a cut segment is lost, and goes with the last that knows it
        segment.free(slots[start:end] - range[0])
        disk.sync(segment.fd)
        touched.append((segment, slots[start:end] - range[0]))
    store.trace(step)
    for segment, indices in touched:
        segment.forget(indices)
        store.trace("pages.forgotten")
    return {(segment.header.first, segment.header.count) for segment, _ in touched}
