"""The lineage of snapshots as a forest.  Not for: drawing it.

Nothing here recurses: a line of thousands of snapshots is an ordinary tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from .snapshot import SnapshotJSON


class HasLineage(Protocol):
    """Anything with an id and a parent's id."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def parent_id(self) -> str:
        """Its parent's id; nil for a root."""


S = TypeVar("S", bound=HasLineage)


def children_of(snapshots: Iterable[S]) -> dict[str, list[S]]:
    """Return the children of each id, in the given order; a parent that is not among them has its children too."""
    found: dict[str, list[S]] = {}
    for snapshot in snapshots:
        found.setdefault(snapshot.parent_id, []).append(snapshot)
    return found


def subtree(snapshots: Iterable[S], root_id: str) -> list[S]:
    """Return ``root_id`` and all below it, every child before its parent."""
    known = list(snapshots)
    children = children_of(known)
    order = [s for s in known if s.id == root_id]
    for snapshot in order:
        order.extend(children.get(snapshot.id, ()))
    return order[::-1]


def nest(flat: Sequence[SnapshotJSON]) -> list[SnapshotJSON]:
    """Return the roots, each with ``children``, in the given order; a lost parent makes a root."""
    copies: list[SnapshotJSON] = [{**item, "children": []} for item in flat]
    by_id = {item["id"]: item for item in copies}
    roots: list[SnapshotJSON] = []
    for item in copies:
        parent = by_id.get(item["parent_id"])
        (roots if parent is None or parent is item else parent["children"]).append(item)
    return roots
