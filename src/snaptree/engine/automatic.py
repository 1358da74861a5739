"""Automatic snapshots: what snaptree takes by itself, their names, and which of them stay.  Not for: taking one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ..catalog.catalog import Current
from ..catalog.undo import Undo
from ..model.snapshot import Snapshot

KEPT = 5
"""So many automatic snapshots of a VM stay."""


@dataclass(frozen=True, slots=True)
class Before:
    """Where a VM is before a load.

    :param undo: what ``undo`` shall go back to; ``None`` leaves it as it is.
    :param kept: the automatic snapshot that was taken of it.
    :param back: the snapshot of exactly this moment; ``None`` where there is none.
    :param not_kept: why none was taken, where it should have been.
    """

    undo: Undo | None
    kept: Snapshot | None = None
    back: Snapshot | None = None
    not_kept: str = ""


def discarding(current: Current, *, not_kept: str = "") -> Before:
    """Return what a load finds whose VM has run since its current snapshot, and is not kept."""
    return Before(Undo(current.id, discarded=True), not_kept=not_kept)


def before_unchanged(target: Snapshot, current: Current, snapshot: Snapshot | None) -> Before:
    """Return what a load of ``target`` finds of a VM that stands at its current snapshot, still."""
    if snapshot is not None and snapshot.id == target.id:
        return Before(None, back=snapshot)  # it goes nowhere, and what undo goes back to stays
    return Before(Undo(current.id), back=snapshot)


def before_broken(current: Current, snapshot: Snapshot | None) -> Before:
    """Return what a load finds after another that failed half way: nothing of now is of one moment.

    What was kept before that one is current.
    """
    return Before(Undo(current.id, discarded=snapshot is None or not snapshot.automatic))


def automatic_name(now_ns: int, taken: Collection[str]) -> str:
    """Return a name that says what the snapshot is, and that no other has.

    Of one second it has the highest number: the oldest go first, and nobody finds a later one under their names.

    :param now_ns: UTC, nanoseconds since the epoch.
    :param taken: the names that there are.
    """
    name = f"auto-{datetime.fromtimestamp(now_ns // 10**9, UTC):%Y%m%d-%H%M%S}"
    numbers = [int(other[len(name) + 1 :]) for other in taken if re.fullmatch(rf"{name}-[0-9]{{1,9}}", other)]
    if name in taken:
        numbers.append(1)
    number = max(numbers, default=0) + 1
    while (candidate := f"{name}-{number}" if number > 1 else name) in taken:
        number += 1
    return candidate


def outdated(snapshots: Iterable[Snapshot], protected: Collection[str]) -> list[Snapshot]:
    """Return the automatic snapshots that go: all but the last :data:`KEPT`, and but those that something needs.

    :param snapshots: all of the VM, oldest first.
    :param protected: the ids of those that something stands on: current, what undo goes back to, forks.
    """
    automatic = [snapshot for snapshot in snapshots if snapshot.automatic]
    return [snapshot for snapshot in automatic[:-KEPT] if snapshot.id not in protected]
