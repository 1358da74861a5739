"""Deleting a snapshot's pages.  Not for: the snapshot's disks, its catalog entry, or whether it may be deleted.

Step by step, each idempotent, so that after a crash in the middle the same steps end it:

1. The index is renamed ``.deleting``: now it is no snapshot any more.
2. Pages that no other snapshot has are punched out; when that is durable, their
   checksums are taken away; when that is, the same is done with its leaves, which say where the pages are.
3. The index is renamed ``.freed``: from here nothing is compared any more.
4. Its children get its base as theirs; segments that hold nothing are removed; at last the index.

A snapshot whose pages a QEMU maps stays whole until that ends (``held``).

Whom to ask: a slot is only ever shared along unbroken lines from bases to those that began with them.  Where all nodes
between two snapshots that share it are deleted, they are base and child now, or have the same base, or none.  So base,
children and siblings know; and siblings need only be asked for what was not written for this snapshot itself and is not
its base's.  Where the tree is not known, since an index is damaged or missing, all snapshots are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from ..model.errors import PagesDamaged, PageStoreError
from ..places.mapped import is_held
from . import disk, held
from .index import DELETING, FREED, INDEX, INDEX_MAX, STAGED, IndexHeader, Kind, kinds_of, slots_of, with_base
from .map import PageMap
from .pages import LEAF, Pages, Slots, chunks

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
            if is_held(store.directory, id):
                held.postpone(store, id)
                return
            disk.rename(store.path(id), store.path(id, DELETING))
        store.pending[id] = DELETING
        del store.headers[id]
        store.forget(id)
        with disk.failing("It cannot be deleted", store.path(id, DELETING)):
            disk.sync_directory(store.directory)
        store.trace("pages.deleting")
    if id in store.pending:
        finish(store, id)
    with disk.failing("Its delete cannot be ended", store.path(id)):
        held.forget(store, id)


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
            touched = _free(store, id)
            store.leaves.forget()
            disk.rename(store.path(id, DELETING), store.path(id, FREED))
            store.pending[id] = FREED
            disk.sync_directory(store.directory)
            store.trace("pages.freed")
        else:
            touched = set(store.segments.ranges)
        if isinstance(header, IndexHeader):
            _give_base(store, sorted(store.children(id)), header.base)
        if remove_empty(store, touched):
            disk.sync_directory(store.directory)
        disk.unlink(store.path(id, FREED))
        disk.sync_directory(store.directory)
    del store.pending[id]
    store.trace("pages.deleted")


def remove_empty(store: PageStore, ranges: Iterable[tuple[int, int]]) -> bool:
    """Remove those of these segments that hold nothing; say whether there was one."""
    found = False
    for range in sorted(set(ranges) - store.borrowed):
        try:
            empty = store.segments.open(range).is_empty()
        except PagesDamaged:
            continue
        if empty:
            store.segments.drop(range)
            store.trace("pages.segment-removed")
            found = True
    return found


def _give_base(store: PageStore, children: Sequence[str], base: str | None) -> None:
    for child in children:
        path = store.path(child)
        with path.open("rb") as file:
            data = file.read(INDEX_MAX + 1)
        staged = store.path(child, INDEX + STAGED)
        disk.write_file(staged, with_base(data, base))
        disk.rename(staged, path)
        header = store.headers[child]
        if isinstance(header, IndexHeader):
            store.headers[child] = replace(header, base=base)
        store.forget(child)
        store.trace("pages.base-changed")
    if children:
        disk.sync_directory(store.directory)


def _free(store: PageStore, id: str) -> set[tuple[int, int]]:
    """Free what only this snapshot has; return the segments that it was in."""
    try:
        mine = store.read_map(id, DELETING)
    except PagesDamaged:
        return set()  # nobody can say what it has
    try:
        slots, leaves = _only(store, mine, *_relatives(store, mine))
    except PagesDamaged:
        # Whoever shares through a snapshot that cannot be read is not its relative.
        slots, leaves = _only(store, mine, set(store.headers), set(), damaged=True)
    touched = _release(store, slots, "pages.punched")
    tables = leaves[kinds_of(mine.root[leaves]) == Kind.TABLE]
    return touched | _release(store, slots_of(mine.root[tables]), "pages.leaves-punched")


def _relatives(store: PageStore, mine: PageMap) -> tuple[set[str], set[str]]:
    """Return base and children, and siblings.

    :raises PagesDamaged: where the tree is not known.
    """
    known = {*store.headers, *store.pending, None}
    bases = {}
    for id, header in store.headers.items():
        if not isinstance(header, IndexHeader) or header.base not in known:
            raise PagesDamaged(f"The base of {id} is not known.")
        bases[id] = header.base
    if mine.base not in known:
        raise PagesDamaged(f"The base of {mine.id} is not known.")
    near = {id for id, base in bases.items() if base == mine.id or id == mine.base}
    return near, {id for id, base in bases.items() if base == mine.base}


def _only(
    store: PageStore, mine: PageMap, near: set[str], siblings: set[str], *, damaged: bool = False
) -> tuple[Pages, Pages]:
    """Return the slots of pages that only this snapshot has, and its leaves that no other has as a whole.

    :param damaged: leave out snapshots whose index cannot be read.
    :raises PagesDamaged: where one's cannot, without ``damaged``.
    """
    close = _maps(store, mine, near, damaged=damaged)
    leaves = _unshared(mine, close, np.flatnonzero(mine.root))
    far: list[PageMap] = []
    if siblings and not mine.is_own(slots_of(mine.root[leaves])).all():
        far = _maps(store, mine, siblings, damaged=damaged)
        leaves = _unshared(mine, far, leaves)
    slots = [np.empty(0, np.int64)]
    for part in chunks(leaves, _CHUNK):
        found = _alone(mine, close, part)
        if siblings and not mine.is_own(found[found != 0]).all():
            far = far or _maps(store, mine, siblings, damaged=damaged)
            found = _alone(mine, [*close, *far], part)
        slots.append(found[found != 0].astype(np.int64))
    return np.concatenate(slots), leaves


def _maps(store: PageStore, mine: PageMap, ids: set[str], *, damaged: bool) -> list[PageMap]:
    """Return the maps of those that have the same layout: no other can share anything.

    :param damaged: leave out what cannot be read, instead of raising PagesDamaged.
    """
    found = []
    for id in sorted(ids):
        header = store.headers[id]
        if isinstance(header, IndexHeader) and header.layout != mine.layout:
            continue
        try:
            found.append(store.map(id))
        except PagesDamaged:
            if not damaged:
                raise
    return found


def _unshared(mine: PageMap, others: Iterable[PageMap], leaves: Pages) -> Pages:
    """Return those of the leaves that none of the others has."""
    for other in others:
        leaves = leaves[mine.root[leaves] != other.root[leaves]]
    return leaves


def _alone(mine: PageMap, others: Sequence[PageMap], leaves: Pages) -> Slots:
    """Return the slots of these leaves, of the shape (len(leaves), LEAF): 0 where one of the others has the same."""
    try:
        # A delete that a crash broke off has left fewer pages than the entries say.
        slots = mine.tables(leaves, checked=False)
        for other in others:
            rows = np.flatnonzero(other.root[leaves])
            slots[rows] *= slots[rows] != other.tables(leaves[rows])
    except PagesDamaged:
        if len(leaves) > 1:
            return np.concatenate([_alone(mine, others, part) for part in chunks(leaves, 1)])
        # Who has what cannot be said: better that space is lost.  Or its pages were freed before a crash.
        return np.zeros((1, LEAF), np.uint32)
    return slots


def _release(store: PageStore, slots: Pages, step: str) -> set[tuple[int, int]]:
    """Free slots, durably before their checksums go; return the segments that they were in."""
    slots = np.unique(slots)
    slots = slots[store.segments.known(slots)]
    touched = []
    for range, start, end in store.segments.split(slots):
        if range in store.borrowed:
            continue
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
        disk.sync(segment.fd)
        store.trace("pages.forgotten")
    return {(segment.header.first, segment.header.count) for segment, _ in touched}
