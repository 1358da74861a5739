"""Whether forks stand on snapshots.  Not for: making a fork, or noting that it stands on one."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.errors import Refused
from ..model.snapshot import Snapshot
from ..places import forks
from ..places.places import VMPlace


def check_unpinned(place: VMPlace, snapshots: Iterable[Snapshot]) -> None:
    """Make sure that no fork stands on any of these snapshots.

    :raises Refused: where one does; it names them.
    """
    standing = forks.standing(place)
    for snapshot in snapshots:
        on_it = [name for name, id in standing.items() if id == snapshot.id]
        if on_it:
            stand = "stands" if len(on_it) == 1 else "stand"
            raise Refused(
                f"{snapshot.name} cannot be deleted: {', '.join(on_it)} {stand} on it.",
                f"`snaptree stop --delete {on_it[0]}` removes a fork.",
            )
