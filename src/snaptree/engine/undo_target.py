"""Which snapshot ``undo`` goes back to, by the catalog.  Not for: going there."""

from __future__ import annotations

from ..catalog.catalog import Catalog
from ..model.errors import NoSuchSnapshot, Refused
from ..model.snapshot import Snapshot


def target(catalog: Catalog, vm: str) -> Snapshot:
    """Return the snapshot of where a VM was before its last load.

    :raises Refused: where there was no load, or what was before it was discarded.
    :raises NoSuchSnapshot: where it was deleted.
    """
    undo = catalog.undo()
    if undo is None:
        raise Refused(f"There is nothing to undo: no snapshot of {vm} was loaded.", f"`snaptree log {vm}` shows all.")
    snapshot = catalog.by_id(undo.id) if undo.known else None
    if undo.discarded:
        if snapshot is None:
            raise Refused(
                f"What {vm} was before its last load was discarded, and no snapshot was current then.",
                f"`snaptree tree {vm}` shows all snapshots.",
            )
        raise Refused(
            f"What {vm} was before its last load was discarded; {snapshot.name} was its current snapshot then.",
            f"`snaptree load {vm} {snapshot.name}` goes back to that.",
        )
    if snapshot is None:
        raise NoSuchSnapshot(
            f"The snapshot of where {vm} was before its last load was deleted.", f"`snaptree tree {vm}` shows the rest."
        )
    return snapshot
