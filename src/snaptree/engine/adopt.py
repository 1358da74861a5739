"""adopt: take a snapshot that others took into the tree.  Not for: changing images, which stay as they are.

QEMU cannot rename a snapshot, so it keeps its tag.  What was its parent nobody knows, so it becomes a root.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.history import Entry, Journal
from ..catalog.rows import from_record, to_record
from ..model.errors import ImageError, NameTaken, NoSuchSnapshot, NotReady, Refused
from ..model.ids import NIL, new_id
from ..model.names import check_name, printable
from ..model.reason import Reason
from ..model.snapshot import Device, Machine, Snapshot
from ..model.tags import parse_tag
from ..places.places import VMPlace
from ..qcow2.image import Image
from ..qcow2.table import ImageSnapshot
from ..qcow2.vmstate import IGNORE_SHARED, VMStateHead
from . import trace
from .foreign import LEAVE_IT, foreign_reasons

MAIN_RAM = frozenset({"pc.ram", "microvm.ram", "mach-virt.ram"})
"""What QEMU calls the RAM of -m where no backend of another name was given."""

Parts = Sequence[tuple[Device, Sequence[ImageSnapshot] | None]]
"""Every device of the VM as it is now, with what its image holds; ``None`` where that cannot be read."""


def choose(catalog: Catalog, tag: str, name: str, description: str, parts: Parts) -> Snapshot:
    """Return the snapshot that ``tag`` would be in the tree.

    :raises BadName, NameTaken: where ``name`` is none, or taken.
    :raises NoSuchSnapshot: where no device holds the tag.
    :raises Refused: where it is in the tree already.
    :raises NotReady: where it is not one moment of the whole VM, or QEMU would load something else, with every reason.
    """
    check_name(name)
    if catalog.by_name(name) is not None:
        raise NameTaken(f"There is a snapshot {printable(name)} already.", "Choose another name.")
    known = next((snapshot for snapshot in catalog.snapshots() if snapshot.tag == tag), None)
    if known is not None:
        raise Refused(f"The tag {printable(tag, 255)} is that of the snapshot {known.name} already.")
    if not any(entry.tag == tag for _, table in parts for entry in table or ()):
        raise NoSuchSnapshot(
            f"No device of the VM holds a snapshot with the tag {printable(tag, 255)}.",
            "`snaptree list --foreign` shows their tags.",
        )
    reasons = foreign_reasons(tag, {device.device: table for device, table in parts})
    if not reasons:
        snapshot, reasons = _read(tag, name, description, parts)
        parent = catalog.by_id(snapshot.parent_id)
        taken = catalog.by_id(snapshot.id) is not None
        if not reasons:
            return replace(
                snapshot, id=new_id() if taken else snapshot.id, parent_id=parent.id if parent and not taken else NIL
            )
    raise NotReady(f"{printable(tag, 255)} cannot be adopted: {reasons[0].message}", reasons[0].remedy, reasons)


def _read(tag: str, name: str, description: str, parts: Parts) -> tuple[Snapshot, tuple[Reason, ...]]:
    entries = [(device, next(e for e in table or () if e.tag == tag)) for device, table in parts]
    state = next(((device, entry) for device, entry in entries if entry.vm_state_size), None)
    head, reasons = _head(state[0], tag) if state else (None, ())
    # One of ours whose catalog was lost says by its tag what it was.
    said = parse_tag(tag)
    device, entry = state or entries[-1]
    snapshot = Snapshot(
        id=said.id if said else new_id(),
        name=name,
        parent_id=said.parent_id if said else NIL,
        tag=tag,
        created_ns=entry.date_ns,
        vm_clock_ns=entry.vm_clock_ns,
        memory="full" if state else "none",
        vm_state_size=entry.vm_state_size,
        vmstate_device=device.device if state else "",
        devices=tuple(replace(d, size=e.disk_size or d.size) for d, e in entries),
        machine=machine_of(head),
        description=description,
    )
    return snapshot, reasons


def _head(device: Device, tag: str) -> tuple[VMStateHead | None, tuple[Reason, ...]]:
    """Read the head of the VM state; what is no file here cannot be read, and says nothing."""
    if not device.file.startswith("/"):
        return None, ()
    try:
        with Image.open(device.file) as image:
            head = next(image.vm_state_head(entry) for entry in image.snapshots() if entry.tag == tag)
    except ImageError as error:
        what = f"The VM state of {printable(tag, 255)} on {device.device} cannot be used: {error.message}"
        return None, (Reason("vm-state-unreadable", what, LEAVE_IT, device.device),)
    if head is not None and IGNORE_SHARED in head.capabilities:
        what = f"The RAM of {printable(tag, 255)} is not in its VM state, and nothing here says where it is kept."
        return head, (Reason("ram-elsewhere", what, LEAVE_IT, device.device),)
    return head, ()


def machine_of(head: VMStateHead | None) -> Machine:
    """Return what a VM state's head tells of the machine: a load checks it before it touches a disk."""
    if head is None:
        return Machine()
    main = [block.size for block in head.ram_blocks if block.name in MAIN_RAM]
    more = any(block.name.startswith(("/objects", "dimm")) for block in head.ram_blocks)
    return Machine(machine=head.machine, ram_size=main[0] if len(main) == 1 and not more else 0)


def commit(catalog: Catalog, place: VMPlace, snapshot: Snapshot, client: str, duration_ms: float) -> None:
    """Take a snapshot into lineage and catalog; the caller is the only one who uses them.

    Effects on failure: the journal keeps it, and the next command finishes it.
    """
    catalog.begin(Journal("adopt", time.time_ns(), client, to_record(snapshot)))
    trace.point("adopt.begun")
    _write(catalog, place, snapshot, client, duration_ms=duration_ms)


def resume(catalog: Catalog, place: VMPlace, journal: Journal) -> str:
    """Finish an adoption that was cut off; return what was done."""
    snapshot = from_record(dict(journal.plan))
    if catalog.by_id(snapshot.id) is not None:
        catalog.ended()
        return ""
    _write(catalog, place, snapshot, journal.client, result="ok, finished afterwards")
    return f"The adoption of {snapshot.name}, which was cut off, has been finished."


def _write(
    catalog: Catalog, place: VMPlace, snapshot: Snapshot, client: str, *, duration_ms: float = 0.0, result: str = "ok"
) -> None:
    lineage.append(place.lineage, time.time_ns(), lineage.add_record(snapshot))
    trace.point("adopt.noted")
    current = catalog.current()
    holder = catalog.by_id(current.id) if current.known else None
    entry = Entry(
        time.time_ns(),
        "adopt",
        snapshot.name,
        snapshot.id,
        current.id,
        holder.name if holder else "",
        client,
        duration_ms,
        0.0,
        f"{result}, was {printable(snapshot.tag, 255)}",
    )
    catalog.added(snapshot, entry)
    trace.point("adopt.added")
    catalog.ended()
    trace.point("adopt.done")
