"""The disks of a VM that doesn't run go back to a snapshot.  Not for: RAM, which only a QEMU can take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..catalog.history import Journal
from ..catalog.lineage import load_record
from ..catalog.undo import read_undo
from ..model.errors import LoadIncomplete, NoSuchSnapshot, NotReady, SnaptreeError
from ..model.snapshot import Snapshot
from . import images, trace
from .offline_hold import Done, Stopped, listed, stopwatch
from .offline_keep import keep_before, prune
from .offline_reasons import load_reasons

OK = "ok, disks only"


def load_held(vm: Stopped, snapshot: Snapshot, *, allow_resize: bool, keep: bool | None, client: str) -> Done:
    """Bring the images back to a snapshot, of a VM that is held, and has nothing left that was cut off.

    Effects: as of :func:`.offline_verbs.load`.
    """
    reasons = load_reasons(vm, snapshot, allow_resize=allow_resize)
    if reasons:
        raise NotReady(f"{snapshot.name} cannot be loaded now: {reasons[0].message}", reasons[0].remedy, reasons)
    before = keep_before(vm, snapshot, keep, client=client)
    clock = stopwatch()
    plan = {
        "id": snapshot.id,
        "name": snapshot.name,
        "tag": snapshot.tag,
        "devices": list(vm.disks),
        "undo": before.undo.to_json() if before.undo is not None else None,
    }
    vm.catalog.begin(Journal("offline-load", time.time_ns(), client, plan))
    trace.point("offline-load.begun")
    vm.catalog.set_step("reverting", plan)
    trace.point("offline-load.reverting")
    perform(vm, plan, client, clock=clock)
    finish(vm, snapshot, plan, client, clock=clock, result=OK)
    done = Done(snapshot, clock(), before.kept, before.not_kept)
    trace.point("offline-load.done")
    prune(vm, client=client)
    return done


def perform(vm: Stopped, plan: Mapping[str, Any], client: str, *, clock: Callable[[], float] = lambda: 0.0) -> None:
    """Bring each image back; doing so again is the same.

    :raises LoadIncomplete: where it stopped; the VM is marked as broken, and the journal has ended.
    """
    for device in plan["devices"]:
        try:
            vm.apply_tag(device, plan["tag"])
        except (SnaptreeError, KeyError) as error:
            mark_broken(vm, plan, client, clock=clock, why=str(error))
            raise LoadIncomplete(
                f"The load of {plan['name']} failed half way: {error} {vm.catalog.broken()}",
                f"Mend the cause and load {plan['name']} again, or load another snapshot; any whole load makes the VM"
                " whole.",
            ) from error
        trace.point("offline-load.one")
    trace.point("offline-load.all")


def finish(
    vm: Stopped,
    snapshot: Snapshot,
    plan: Mapping[str, Any],
    client: str,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    result: str,
) -> None:
    """Note that the snapshot was loaded, and is current."""
    undo = read_undo(plan.get("undo"))
    vm.append_lineage(load_record(snapshot.id, undo))
    trace.point("offline-load.noted")
    entry = vm.entry("load", snapshot.name, snapshot.id, client, clock=clock, result=result)
    vm.catalog.loaded(snapshot.id, entry, undo)


def resume(vm: Stopped, plan: Mapping[str, Any], step: str, client: str) -> str:
    """Finish or undo a load that was cut off; return what was done.

    :raises LoadIncomplete: where it cannot go on.
    """
    name = plan["name"]
    if step != "reverting":
        vm.catalog.ended(vm.entry("load", name, plan["id"], client, result="failed: cut off; undone"))
        return f"The load of {name}, which was cut off, had changed nothing."
    snapshot = vm.catalog.by_id(plan["id"])
    if snapshot is None:
        raise NoSuchSnapshot(f"There is no snapshot {name} any more, whose load was cut off.")
    perform(vm, plan, client)
    finish(vm, snapshot, plan, client, result=f"{OK}, finished afterwards")
    return f"The load of {name}, which was cut off, has been finished: all disks are at {name}, without RAM."


def mark_broken(
    vm: Stopped, plan: Mapping[str, Any], client: str, *, clock: Callable[[], float] = lambda: 0.0, why: str
) -> None:
    """Note durably that the disks don't belong together, and end the load in the journal."""
    at = {device: _is_at(vm, device, plan["tag"]) for device in plan["devices"]}
    there = [device for device, found in at.items() if found]
    others = [device for device, found in at.items() if not found]
    words = [f"{listed(there)} at {plan['name']}"] * bool(there) + [f"{listed(others)} not"] * bool(others)
    broken = f"The disks don't belong together: {', '.join(words)}."
    entry = vm.entry("load", plan["name"], plan["id"], client, clock=clock, result=f"incomplete: {why}")
    vm.catalog.broke(broken, entry)


def _is_at(vm: Stopped, device: str, tag: str) -> bool:
    recorded = vm.disks.get(device)
    return recorded is not None and images.at_snapshot(recorded.file, tag) is True
