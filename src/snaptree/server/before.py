"""What a VM that is taken into care was before: its disks, its current snapshot.  Not for: what was cut off in it."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog.catalog import Catalog
from ..engine.offline_hold import disks_of
from ..model.errors import OtherDisks
from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Device
from ..places.places import VMPlace


def check_disks(place: VMPlace, disks: Sequence[Device]) -> None:
    """Make sure that the VM has the disks that it had.

    :raises OtherDisks: where it hasn't.
    """
    before = {device.file for device in disks_of(place).values()}
    now = {device.file for device in disks}
    if not before or before == now:
        return
    gone = ", ".join(printable(file) for file in sorted(before - now))
    new = ", ".join(printable(file) for file in sorted(now - before))
    what = "; ".join([f"without {gone}"] * bool(gone) + [f"with {new}"] * bool(new))
    raise OtherDisks(
        f"The VM {place.name} has other disks: this command line comes {what}.",
        f"Choose another name for this VM, or end snaptree's care of the old one by `snaptree forget {place.name}`.",
    )


def said_of_cold_start(place: VMPlace, catalog: Catalog) -> list[str]:
    """Return what to say where QEMU starts cold, and there is a snapshot with RAM to go back to."""
    current = catalog.current()
    snapshot = catalog.by_id(current.id) if current.id not in ("", NIL) else None
    if snapshot is None or snapshot.memory == "none":
        return []
    return [
        f"{place.name} starts cold: its disks are as they were left, RAM is empty;"
        f" `snaptree load {place.name} {snapshot.name}` goes back to its last snapshot with RAM."
    ]
