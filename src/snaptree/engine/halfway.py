"""What a load that failed half way has left: the disks' states in words, and the mark on the VM.  Not for: loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..catalog.undo import Undo, read_undo
from ..model.errors import LoadIncomplete, QEMUFailed
from ..model.snapshot import Memory
from ..qemu.jobs import dismiss
from . import images
from .stopwatch import Stopwatch
from .vm import VM

REVERTED = frozenset({"reverted", "loaded"})
"""The steps of a load's journal after QEMU has reverted all disks; the guest may have written to them since."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is needed to finish or undo a load.

    :param files: the image of each device of the snapshot.
    :param same: the devices whose content was that of the snapshot before already; only the others can tell whether
        the load touched them.
    :param was_running: the VM runs afterwards.
    :param undo: where the VM was before; ``None`` leaves what is known of that.
    :param back: the id of the snapshot of the moment before, to which the VM returns where the load fails half way;
        empty where there is none.
    :param returning: this load is such a return: what is stopped now may have run before.
    """

    id: str
    name: str
    tag: str
    job_id: str
    nodes: tuple[str, ...]
    vmstate_node: str
    files: dict[str, str]
    same: tuple[str, ...]
    was_running: bool
    memory: Memory = "full"
    undo: Undo | None = None
    back: str = ""
    returning: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for the journal."""
        # Not by dataclasses.asdict: it copies every value, and takes 0.2 ms of a pause for each note.
        raw = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**raw, "undo": self.undo.to_json() if self.undo is not None else None}


def read_plan(raw: Mapping[str, Any]) -> Plan:
    """Return the plan that a journal holds."""
    values = {**raw, "nodes": tuple(raw["nodes"]), "same": tuple(raw["same"]), "undo": read_undo(raw.get("undo"))}
    return Plan(**values)


class HalfWay(LoadIncomplete):
    """A load failed half way, and the VM is marked as broken.

    :ivar why: what failed.
    """

    def __init__(self, vm: VM, plan: Plan, why: str) -> None:
        super().__init__(f"The load of {plan.name} failed half way: {why} {vm.broken}", remedy(plan))
        self.why = why


def states(plan: Plan) -> dict[str, str]:
    """Say for each device what a load that failed has done to it: ``reverted``, ``untouched``, ``same`` or ``unknown``.

    ``same``: its content was that of the snapshot before, so both words would be true.
    """
    found = {}
    for device, at in images.disks_at(plan.files, plan.tag).items():
        if at is None:
            found[device] = "unknown"
        elif device in plan.same:
            found[device] = "same"
        else:
            found[device] = "reverted" if at else "untouched"
    return found


def verify(plan: Plan) -> None:
    """Make sure that every device was reverted, by its image.

    :raises QEMUFailed: where one was not.
    """
    for device, at in images.disks_at(plan.files, plan.tag).items():
        if at is False:
            raise QEMUFailed(f"QEMU says that it loaded {plan.name}, and {device} is not at it.")


def certainly_untouched(found: dict[str, str]) -> bool:
    """Say whether a load that failed has certainly changed neither a device nor RAM.

    QEMU reverts one device after the other and only then begins with RAM.  So where one device is untouched RAM is, and
    where none is reverted nothing was changed.
    """
    words = set(found.values())
    return "untouched" in words and words <= {"untouched", "same"}


async def mark_broken(vm: VM, plan: Plan, found: dict[str, str], *, client: str, clock: Stopwatch, why: str) -> None:
    """Note durably that the disks don't belong together, keep the VM paused, and end the load in the journal."""
    await vm.session.execute("stop")
    vm.broken = f"The VM stays paused: {_words(plan, found)}, and RAM is of neither moment for certain."
    entry = await vm.entry("load", plan.name, plan.id, client, clock=clock, result=f"incomplete: {why}")
    await vm.disk(vm.catalog.broke, vm.broken, entry)
    await dismiss(vm.session, plan.job_id)
    publish_failure(vm, plan, entry.duration_ms, why)


def publish_failure(vm: VM, plan: Plan, duration_ms: float, why: str) -> None:
    """Tell every client that the load failed."""
    data = {"name": plan.name, "id": plan.id, "duration_ms": duration_ms, "operation": "load", "error": why}
    vm.publish("SNAPSHOT_FAILED", data)


def remedy(plan: Plan) -> str:
    """Return what to do after a load that failed half way."""
    return f"Mend the cause and load {plan.name} again, or load another snapshot; any whole load makes the VM whole."


def _words(plan: Plan, found: dict[str, str]) -> str:
    says = {
        "reverted": f"is at {plan.name}",
        "untouched": "is as it was before the load",
        "same": f"is at {plan.name}, where it was before",
        "unknown": "is in an unknown state",
        "closed": "was found corrupt and closed by QEMU",
    }
    return ", ".join(f"{device} {says[word]}" for device, word in found.items())
