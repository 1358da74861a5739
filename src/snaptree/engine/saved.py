"""What a create is going to save, and whether what QEMU saved is that.  Not for: saving it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..catalog.catalog import Current
from ..catalog.lineage import current_record
from ..catalog.rows import from_record
from ..model.errors import QEMUFailed
from ..model.ids import NIL
from ..model.snapshot import Device, Snapshot
from ..model.tags import format_tag
from ..qemu.blockdevs import BlockDevice
from ..qemu.blockers import choose_vmstate_device
from ..qemu.facts import Facts
from ..qemu.jobs import new_job_id
from .moments import ClockSeen
from .ramway import memory_now
from .vm import VM

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new snapshot shall be called.

    :param automatic: nobody asked for it by this name.
    """

    name: str
    description: str = ""
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is needed to finish or undo a create: the snapshot as it will be, the nodes, the job."""

    snapshot: dict[str, Any]
    nodes: tuple[str, ...]
    vmstate_node: str
    job_id: str
    was_running: bool

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for the journal."""
        return asdict(self)

    @property
    def files(self) -> list[str]:
        """The images."""
        return [str(device["file"]) for device in self.snapshot["devices"]]

    @property
    def tag(self) -> str:
        """The tag on all devices."""
        return str(self.snapshot["tag"])


async def new_plan(vm: VM, id: str, wanted: Wanted, facts: Facts) -> Plan:
    """Return the plan of a create.

    Prerequisites: nothing speaks against a snapshot.
    """
    current = await vm.disk(vm.catalog.current)
    parent_id = current.id or NIL
    vmstate = choose_vmstate_device(facts)
    assert vmstate is not None  # create_reasons says so otherwise
    devices = tuple(Device(d.device, d.node, d.file, d.size) for d in facts.devices)
    memory, why = memory_now(vm, facts)
    snapshot = {
        "id": id,
        "name": wanted.name,
        "parent_id": parent_id,
        "tag": format_tag(wanted.name, id, parent_id),
        "memory": memory,
        "memory_why": why,
        "vmstate_device": vmstate.device,
        "devices": [asdict(d) for d in devices],
        "machine": asdict(facts.machine),
        "description": wanted.description,
        "automatic": wanted.automatic,
    }
    return Plan(snapshot, tuple(d.node for d in facts.devices), vmstate.node, new_job_id(), facts.running)


def whole(plan: Plan, devices: tuple[BlockDevice, ...]) -> Snapshot:
    """Return the snapshot as the devices hold it.

    :raises QEMUFailed: where a device doesn't hold it, or not the same one.
    """
    by_device = {device.device: device for device in devices}
    found = {}
    for recorded in plan.snapshot["devices"]:
        name = recorded["device"]
        device = by_device.get(name)
        here = [s for s in device.snapshots if s.tag == plan.tag] if device else []
        if len(here) != 1:
            raise QEMUFailed(f"QEMU saved {plan.tag}, and {name} has it {len(here)} times.")
        found[name] = here[0]
    state = found[plan.snapshot["vmstate_device"]]
    if state.vm_state_size == 0 or any(s.vm_clock_ns != state.vm_clock_ns for s in found.values()):
        raise QEMUFailed(f"QEMU saved {plan.tag}, and its devices don't agree on VM clock and VM state.")
    record = {
        **plan.snapshot,
        "created_ns": state.date_ns,
        "vm_clock_ns": state.vm_clock_ns,
        "vm_state_size": state.vm_state_size,
        "flaw": "",
    }
    return from_record(record)


async def doubt_parent(vm: VM, snapshot: Snapshot, stopped_at_s: float | None) -> Snapshot:
    """Take the parent back where the VM's clock shows that another monitor loaded something else meanwhile."""
    if stopped_at_s is None:
        return snapshot
    seen, vm.clock_seen = vm.clock_seen, ClockSeen(snapshot.id, snapshot.vm_clock_ns, stopped_at_s)
    parent = await vm.disk(vm.catalog.by_id, snapshot.parent_id)
    # Only within one QEMU process: a cold start begins at zero, and its disks descend from the parent all the same.
    if parent is None or seen is None or seen.id != parent.id:
        return snapshot
    if snapshot.vm_clock_ns < seen.vm_clock_ns:
        how = f"was behind that of {parent.name}"
    elif seen.outrun(snapshot.vm_clock_ns, stopped_at_s) and not vm.counts_instructions:
        how = f"was further on than the VM can have run since {parent.name}"
    else:
        return snapshot
    why = (
        f"The VM's clock {how} when {snapshot.name} was taken: another monitor of this QEMU loaded another state in"
        " between."
    )
    log.warning("%s", why)
    await vm.append_lineage(current_record(""))
    await vm.disk(vm.catalog.set_current, Current("", why))
    return replace(snapshot, parent_id=NIL)
