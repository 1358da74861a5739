"""The plan of a load: what will be reverted, and how the disks stand to it before.  Not for: carrying it out."""

from __future__ import annotations

from dataclasses import replace

from ..model.snapshot import Snapshot
from ..qemu.facts import Facts
from ..qemu.jobs import new_job_id
from . import images
from .automatic import Before
from .halfway import Plan


def new_plan(snapshot: Snapshot, facts: Facts, before: Before) -> Plan:
    """Return the plan of a load, of the disks as they are now."""
    here = {device.device: device for device in facts.devices}
    chosen = [here[recorded.device] for recorded in snapshot.devices]
    files = {device.device: device.file for device in chosen}
    return Plan(
        id=snapshot.id,
        name=snapshot.name,
        tag=snapshot.tag,
        job_id=new_job_id(),
        nodes=tuple(device.node for device in chosen),
        vmstate_node=here[snapshot.vmstate_device].node,
        files=files,
        same=standing(images.disks_at(files, snapshot.tag)),
        was_running=facts.running,
        memory=snapshot.memory,
        undo=before.undo,
        back=before.back.id if before.back is not None else "",
    )


def again(plan: Plan, facts: Facts) -> Plan:
    """Return the plan of the same load once more, in the QEMU that runs now."""
    here = {device.device: device for device in facts.devices}
    vmstate = next(
        device for device in facts.devices if any(s.vm_state_size for s in device.snapshots if s.tag == plan.tag)
    )
    return replace(
        plan,
        job_id=new_job_id(),
        nodes=tuple(here[device].node for device in plan.files),
        vmstate_node=vmstate.node,
        files={device: here[device].file for device in plan.files},
    )


def standing(found: dict[str, bool | None]) -> tuple[str, ...]:
    """Return the devices that may be at the snapshot already."""
    return tuple(device for device, at in found.items() if at is not False)
