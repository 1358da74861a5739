"""Finishing or undoing, by the images alone, what was cut off while the VM ran.  Not for: a VM that runs now.

As when QEMU starts again (:mod:`.recover`): what has passed its point of no return rolls forward, the rest rolls back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalog.history import Journal
from ..catalog.lineage import create_record, delete_record, load_record
from ..catalog.rows import from_record
from ..catalog.undo import read_undo
from ..model.errors import ImageError, SnaptreeError
from ..model.snapshot import Snapshot
from . import images, trace
from .check_pages import pages_are_there
from .halfway import REVERTED
from .offline_delete import forget_pages
from .offline_hold import Stopped


def remove_tag(vm: Stopped, tag: str) -> None:
    """Take a tag off all devices that have it.

    :raises ImageError: where an image can't be read or changed; the tag is off those before it.
    """
    for device in vm.disks:
        if any(entry.tag == tag for entry in vm.table(device)):
            vm.delete_tag(device, tag)
            trace.point("repair.removed")


def end_create(vm: Stopped, journal: Journal) -> str:
    """Finish a create that is whole on all images, and undo any other; return what was done.

    :raises ImageError: where an image can't be read or changed; the journal is as it was.
    """
    raw = dict(journal.plan["snapshot"])
    name, id = str(raw["name"]), str(raw["id"])
    snapshot = whole(vm, raw)
    if snapshot is not None:
        vm.append_lineage(create_record(snapshot))
        result = "ok, finished afterwards"
        vm.catalog.created(snapshot, vm.entry("create", name, id, journal.client, result=result))
        return f"The create of {name}, which was cut off, has been finished."
    remove_tag(vm, str(raw["tag"]))
    forget_pages(vm.place, id)
    vm.append_lineage(delete_record([id]))
    vm.catalog.ended(vm.entry("create", name, id, journal.client, result="failed: cut off in the middle; removed"))
    return f"The create of {name}, which was cut off, has been undone."


def whole(vm: Stopped, raw: Mapping[str, Any]) -> Snapshot | None:
    """Return the snapshot of a create's plan as the images hold it; ``None`` where they don't hold all of it.

    :raises ImageError: where an image of it can't be read.
    """
    found = {}
    for recorded in raw["devices"]:
        if recorded["device"] not in vm.disks:
            return None
        here = [entry for entry in vm.table(recorded["device"]) if entry.tag == raw["tag"]]
        if len(here) != 1:
            return None
        found[recorded["device"]] = here[0]
    state = found.get(raw["vmstate_device"])
    if state is None or not state.vm_state_size or any(e.vm_clock_ns != state.vm_clock_ns for e in found.values()):
        return None
    if raw["memory"] == "pages" and not pages_are_there(vm.place, str(raw["id"])):
        return None
    more = {
        "created_ns": state.date_ns,
        "vm_clock_ns": state.vm_clock_ns,
        "vm_state_size": state.vm_state_size,
        "automatic": bool(raw.get("automatic", False)),
        "flaw": "",
    }
    return from_record({**raw, **more})


def end_load(vm: Stopped, journal: Journal) -> str:
    """Finish a load that has changed an image, for the disks alone, and undo any other; return what was done.

    :raises ImageError: where an image can't be read or changed; the journal is as it was.
    """
    raw = journal.plan
    name, id, tag = str(raw["name"]), str(raw["id"]), str(raw["tag"])
    files: dict[str, str] = dict(raw["files"])
    at = {device: images.at_snapshot(file, tag) for device, file in files.items()}
    behind = [device for device, there in at.items() if there is False]
    unknown = [device for device, there in at.items() if there is None]
    reverted = [device for device, there in at.items() if there and device not in raw["same"]]
    if journal.step not in REVERTED:
        if unknown:
            raise ImageError(
                f"A load of {name} was cut off; the image of {', '.join(unknown)} cannot be read, or doesn't hold it.",
                "Put the image back, and repair once more.",
            )
        if not reverted and behind:
            vm.catalog.ended(vm.entry("load", name, id, journal.client, result="failed: cut off; undone"))
            return f"The load of {name}, which was cut off, had changed nothing."
        for device in behind:
            # QEMU had begun to revert the others: all disks go where the load was going.
            vm.apply_tag(device, tag)
            trace.point("repair.reverted")
    if vm.catalog.by_id(id) is None:
        raise SnaptreeError(f"The journal names the snapshot {id}, which the catalog doesn't know.")
    undo = read_undo(raw.get("undo"))
    vm.append_lineage(load_record(id, undo))
    entry = vm.entry("load", name, id, journal.client, result="ok, finished afterwards: disks only")
    vm.catalog.loaded(id, entry, undo)
    return (
        f"The load of {name}, which was cut off, has been finished: all disks are at it; the VM starts cold from them."
    )


def end_repair(vm: Stopped, journal: Journal) -> str:
    """Go on taking off what a repair had begun to take off; return what was done."""
    tag = str(journal.plan["tag"])
    remove_tag(vm, tag)
    vm.catalog.ended(vm.entry("repair", "", "", journal.client, result="ok, finished afterwards"))
    return f"The removal of {tag}, which was cut off, has been finished."
