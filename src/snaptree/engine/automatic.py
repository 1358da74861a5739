"""Automatic snapshots: what snaptree takes by itself, their names, and which of them stay.  Not for: taking one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from ..model.ids import NIL
from ..model.snapshot import Snapshot

KEPT = 5
"""So many automatic snapshots of a VM stay."""


def automatic_name(now_ns: int, taken: Collection[str]) -> str:
    """Return a name that says what the snapshot is, and that no other has.

    :param now_ns: UTC, nanoseconds since the epoch.
    :param taken: the names that there are.
    """
    name = f"auto-{datetime.fromtimestamp(now_ns // 10**9, UTC):%Y%m%d-%H%M%S}"
    candidate, number = name, 2
    while candidate in taken:
        candidate = f"{name}-{number}"
        number += 1
    return candidate


def outdated(snapshots: Iterable[Snapshot], protected: Collection[str]) -> list[Snapshot]:
    """Return the automatic snapshots that go: all but the last :data:`KEPT`, and but those that something needs.

    :param snapshots: all of the VM, oldest first.
    :param protected: the ids of those that something stands on: current, what undo goes back to, forks.
    """
    automatic = [snapshot for snapshot in snapshots if snapshot.automatic]
    return [snapshot for snapshot in automatic[:-KEPT] if snapshot.id not in protected and snapshot.id != NIL]
