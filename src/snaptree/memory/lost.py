"""Slots that snapshots of a store have, and that no file holds: it was lost.  Not for: telling the user of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..model.errors import PagesDamaged
from .index import INDEX, IndexHeader, slots_of
from .pages import LEAF

if TYPE_CHECKING:
    from .store import PageStore


def find(store: PageStore) -> tuple[tuple[int, int], ...]:
    """Return first slot and number of slots of each range, ascending.

    What lies below a segment that is there need not be among them: slots are taken from above all that is known.  So it
    is enough to look at the segment that was written for a snapshot, which is above all others that it has pages in;
    and where none was, at its leaves, which are above the pages that they name.
    """
    known = set(store.segments.ranges)
    found = set()
    for header, suffix in _headers(store):
        if header.own[1]:
            found.add(header.own)
            continue
        try:
            root = store.read_map(header.id, suffix).root
        except PagesDamaged:
            continue  # it is lost itself
        slots = slots_of(root[root != 0]).astype(np.int64)
        found.update((slot, LEAF) for slot in slots[~store.segments.known(slots)].tolist())
    return tuple(sorted(found - known))


def _headers(store: PageStore) -> Iterator[tuple[IndexHeader, str]]:
    """Yield the header of each snapshot and its index's suffix, also of those whose delete has begun."""
    for header in store.headers.values():
        if isinstance(header, IndexHeader):
            yield header, INDEX
    for id, suffix in store.pending.items():
        pending = store.read_header(id, suffix)
        if isinstance(pending, IndexHeader):
            yield pending, suffix
