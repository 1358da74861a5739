"""A snapshot of the disks of a VM that doesn't run.  Not for: RAM, which there is none of; nor holding the VM."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..catalog.history import Journal
from ..catalog.lineage import create_record, delete_record
from ..catalog.rows import from_record, to_record
from ..model.errors import ImageError, NameTaken, NotReady, SnaptreeError
from ..model.ids import NIL, new_id
from ..model.names import printable
from ..model.snapshot import Snapshot
from ..model.tags import format_tag
from . import trace
from .offline_hold import Stopped
from .offline_reasons import create_reasons
from .room import TABLES_BYTES, explain

OK = "ok, disks only"


def create_held(
    vm: Stopped,
    name: str,
    description: str,
    *,
    client: str,
    clock: Callable[[], float] = lambda: 0.0,
    automatic: bool = False,
) -> Snapshot:
    """Take a snapshot of the images of a VM that is held, and has nothing left that was cut off.

    Prerequisites: ``name`` is a name and free; :func:`~.offline_reasons.create_reasons` finds nothing.
    Effects: as of :func:`.offline_verbs.create`.

    :param automatic: nobody asked for it by this name.
    """
    if vm.catalog.by_name(name) is not None:
        raise NameTaken(
            f"There is a snapshot {printable(name)} already.", "Choose another name, or delete or rename that one."
        )
    reasons = create_reasons(vm)
    if reasons:
        raise NotReady(
            f"The VM {vm.place.name} cannot be snapshotted now: {reasons[0].message}", reasons[0].remedy, reasons
        )
    plan = _plan(vm, name, description, automatic)
    vm.catalog.begin(Journal("offline-create", time.time_ns(), client, plan))
    trace.point("offline-create.begun")
    try:
        for device in vm.disks:
            vm.create_tag(device, plan["tag"])
            trace.point("offline-create.one")
        trace.point("offline-create.all")
        snapshot = finish(vm, plan, client, clock=clock, result=OK)
    except SnaptreeError as error:
        explain(error, [(device.file, TABLES_BYTES) for device in vm.disks.values()])
        undo(vm, plan, client, clock=clock, why=str(error))  # where it fails, the journal keeps it
        error.remedy = error.remedy or "Nothing is left of it; the VM and its snapshots are as they were."
        raise
    trace.point("offline-create.done")
    return snapshot


def _plan(vm: Stopped, name: str, description: str, automatic: bool) -> dict[str, Any]:
    parent_id = vm.catalog.current().id or NIL
    id = new_id()
    return to_record(
        Snapshot(
            id=id,
            name=name,
            parent_id=parent_id,
            tag=format_tag(name, id, parent_id),
            created_ns=0,
            vm_clock_ns=0,
            memory="none",
            vm_state_size=0,
            vmstate_device="",
            devices=tuple(vm.disks.values()),
            description=description,
            automatic=automatic,
        )
    )


def whole(vm: Stopped, plan: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot as the images hold it.

    :raises ImageError: where not each of them holds it, once.
    """
    planned = from_record(dict(plan))
    entries = []
    for recorded in planned.devices:
        found = [entry for entry in vm.table(recorded.device) if entry.tag == planned.tag]
        if len(found) != 1:
            raise ImageError(f"{recorded.device} holds {planned.tag} {len(found)} times.")
        entries.append(found[0])
    # qemu-img dates each image by itself; the last one makes the snapshot whole.
    devices = tuple(
        replace(device, size=entry.disk_size or device.size)
        for device, entry in zip(planned.devices, entries, strict=True)
    )
    return replace(planned, devices=devices, created_ns=entries[-1].date_ns, vm_clock_ns=entries[-1].vm_clock_ns)


def finish(
    vm: Stopped, plan: Mapping[str, Any], client: str, *, clock: Callable[[], float] = lambda: 0.0, result: str
) -> Snapshot:
    """Note that the snapshot was created, and is current.

    :raises ImageError: where it is not whole.
    """
    snapshot = whole(vm, plan)
    vm.append_lineage(create_record(snapshot))
    trace.point("offline-create.noted")
    entry = vm.entry("create", snapshot.name, snapshot.id, client, clock=clock, result=result)
    vm.catalog.created(snapshot, entry)
    return snapshot


def undo(
    vm: Stopped, plan: Mapping[str, Any], client: str, *, clock: Callable[[], float] = lambda: 0.0, why: str
) -> None:
    """Remove what a create has written, and end it in the journal.

    Effects on failure: the journal keeps it, and the next command tries again.
    """
    for recorded in plan["devices"]:
        vm.delete_tag(recorded["device"], plan["tag"])
    vm.append_lineage(delete_record([plan["id"]]))
    vm.catalog.ended(vm.entry("create", plan["name"], plan["id"], client, clock=clock, result=f"failed: {why}"))
