"""create: one new snapshot of the whole VM.  Not for: choosing a name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..catalog.catalog import Current
from ..catalog.history import Journal
from ..catalog.lineage import create_record, current_record, delete_record
from ..catalog.rows import from_record
from ..model.errors import NameTaken, NotReady, QEMUFailed, QEMUGone, SnaptreeError, UsageError
from ..model.ids import NIL, new_id
from ..model.names import check_name, printable
from ..model.reason import Reason
from ..model.snapshot import Device, Snapshot
from ..model.tags import format_tag
from ..qemu.blockdevs import BlockDevice
from ..qemu.blockers import choose_vmstate_device
from ..qemu.facts import Facts
from ..qemu.jobs import dismiss, dismiss_soon, new_job_id, run_job
from . import images, tags, trace
from .pause import Pause, paused
from .ramway import in_thread, memory_now
from .room import explain_create
from .status import create_reasons
from .vm import VM, ClockSeen, Stands, Stopwatch

if TYPE_CHECKING:
    from .taking import Taking

DESCRIPTION_MAX = 4096

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """What an operation did."""

    snapshot: Snapshot
    duration_ms: float
    pause_ms: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new snapshot shall be called.

    :param automatic: nobody asked for it by this name.
    """

    name: str
    description: str = ""
    automatic: bool = False


async def create(vm: VM, name: str, description: str = "", *, client: str, wait: bool = True) -> Done:
    """Take a snapshot of the whole VM: all devices, device state, RAM.

    Prerequisites: ``name`` is a name and free; :func:`~.status.create_reasons` finds nothing.
    Effects on success: every writable device holds the snapshot under one tag; it is in the catalog, and current; the
    VM runs exactly if it ran before.
    Effects on failure: none; what was written of it is removed again, now or when the VM is next supervised.

    :raises BadName, NameTaken, NotReady, Busy: before anything was changed.
    :raises QEMUFailed: where QEMU could not save.
    :raises QEMUGone: where QEMU ended meanwhile.
    """
    check_name(name)
    check_description(description)
    async with vm.operation("create", wait=wait):
        vm.require_qemu()
        return await create_held(vm, Wanted(name, description), client=client)


async def create_held(vm: VM, wanted: Wanted, *, client: str) -> Done:
    """As :func:`create`, for a caller who holds the VM's lock."""
    clock = Stopwatch()
    if await vm.disk(vm.catalog.by_name, wanted.name) is not None:
        raise NameTaken(
            f"There is a snapshot {printable(wanted.name)} already.",
            "Choose another name, or delete or rename that one.",
        )
    id = new_id()
    plan: Plan | None = None
    async with _taking(vm, id) as taking:
        if taking is not None and await in_thread(taking.wants_round):
            async with vm.exclusive():
                plan = await _prepare(vm, id, wanted, client)
            await _undoing(vm, plan, client, clock, _copy(vm, taking, clock))
        await asyncio.to_thread(images.flush, vm.files())
        async with vm.exclusive():
            if plan is None:
                plan = await _prepare(vm, id, wanted, client)
            else:
                plan = await _undoing(vm, plan, client, clock, _prepare_again(vm, plan, wanted))
            ram = taking if plan.snapshot["memory"] == "pages" else None
            trace.point("create.begun")
            pause = await _undoing(vm, plan, client, clock, _save(vm, plan, clock, ram))
        snapshot = await _undoing(vm, plan, client, clock, _finish(vm, plan, client, clock, ram))
    vm.stands = Stands(snapshot.id, pause.resumed_before)
    trace.point("create.done")
    done = Done(snapshot, clock.duration_ms(), clock.pause_ms())
    vm.publish("SNAPSHOT_CREATED", {"name": wanted.name, "id": snapshot.id, "duration_ms": done.duration_ms})
    if pause.stuck:
        raise QEMUFailed(
            f"{wanted.name} was created, and the VM cannot continue: {pause.stuck}", "It is paused; `cont` says why."
        )
    return done


@asynccontextmanager
async def _taking(vm: VM, id: str) -> AsyncIterator[Taking | None]:
    """Begin to take RAM in pages, where that is this VM's way; what is not committed at the end leaves nothing."""
    if vm.paged is None:
        yield None
        return
    from .taking import Taking  # noqa: PLC0415  numpy, which is there where RAM is paged

    current = await vm.disk(vm.catalog.current)
    taking = await in_thread(Taking, vm.paged, id, current.id)
    try:
        yield taking
    finally:
        await asyncio.to_thread(taking.abort)


async def _copy(vm: VM, taking: Taking, clock: Stopwatch) -> None:
    """Copy RAM while the VM runs, until little is left that was written meanwhile."""
    while await in_thread(taking.wants_round):
        async with vm.exclusive(), paused(vm, clock, look=False):
            await in_thread(taking.mark)
            trace.point("create.marked")
        await in_thread(taking.copy)
        trace.point("create.copied")


async def _facts(vm: VM) -> Facts:
    """:raises NotReady: where no snapshot can be taken now."""
    facts, reasons = await vm.facts_for(lambda facts: create_reasons(vm, facts))
    _check(vm, reasons)
    return facts


def _check(vm: VM, reasons: tuple[Reason, ...]) -> None:
    if reasons:
        raise NotReady(
            f"The VM {vm.place.name} cannot be snapshotted now: {reasons[0].message}", reasons[0].remedy, reasons
        )


async def _prepare(vm: VM, id: str, wanted: Wanted, client: str) -> Plan:
    """Make sure that a snapshot can be taken, and note durably that it begins."""
    plan = await _plan(vm, id, wanted, await _facts(vm))
    trace.point("create.planned")
    await vm.disk(vm.catalog.begin, Journal("create", time.time_ns(), client, plan.to_json()))
    return plan


async def _prepare_again(vm: VM, begun: Plan, wanted: Wanted) -> Plan:
    """Make sure that a snapshot can still be taken, of the VM as it is now."""
    plan = await _plan(vm, begun.snapshot["id"], wanted, await _facts(vm))
    plan = replace(plan, job_id=begun.job_id)
    if plan != begun:
        await vm.disk(vm.catalog.set_step, "begun", plan.to_json())
    return plan


async def _undoing(vm: VM, plan: Plan, client: str, clock: Stopwatch, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work``; where it fails, remove what was written."""
    try:
        return await work
    except QEMUGone:
        raise  # the journal stays: the next start finds out whether the snapshot is whole
    except SnaptreeError as error:
        await explain_create(vm, plan.snapshot, error)
        await undo(vm, plan, client, clock, str(error))
        error.remedy = error.remedy or "Nothing is left of it; the VM and its snapshots are as they were."
        raise


async def _finish(vm: VM, plan: Plan, client: str, clock: Stopwatch, taking: Taking | None) -> Snapshot:
    if taking is not None:
        await in_thread(taking.commit)
        trace.point("create.kept")
    snapshot = await finish(vm, plan, stopped_at_s=clock.stopped_at_s)
    trace.point("create.whole")
    entry = await vm.entry("create", snapshot.name, snapshot.id, client, clock=clock)
    await vm.disk(vm.catalog.created, snapshot, entry)
    return snapshot


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
    def tag(self) -> str:
        """The tag on all devices."""
        return str(self.snapshot["tag"])


async def _plan(vm: VM, id: str, wanted: Wanted, facts: Facts) -> Plan:
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


async def _save(vm: VM, plan: Plan, clock: Stopwatch, taking: Taking | None) -> Pause:
    async with paused(vm, clock, ignoring_shared=taking is not None) as pause:
        if pause.facts is not None:
            _check(vm, create_reasons(vm, pause.facts))
        if pause.was_running != plan.was_running:
            plan = replace(plan, was_running=pause.was_running)
            await vm.disk(vm.catalog.set_step, "begun", plan.to_json())
        trace.point("create.paused")
        if taking is None:
            await _save_state(vm, plan)
        else:
            # QEMU writes nothing into guest RAM while it saves, so both are of the one moment.
            saved, taken = await asyncio.gather(_save_state(vm, plan), in_thread(taking.last), return_exceptions=True)
            for failure in (saved, taken):
                if isinstance(failure, BaseException):
                    raise failure
        pause.check_untouched()
        trace.point("create.saved")
    await dismiss_soon(vm.session, plan.job_id)  # not in the pause
    return pause


async def _save_state(vm: VM, plan: Plan) -> None:
    arguments = {"tag": plan.tag, "vmstate": plan.vmstate_node, "devices": list(plan.nodes)}
    await run_job(vm.session, "snapshot-save", arguments, plan.job_id, keep=True)


async def finish(vm: VM, plan: Plan, *, stopped_at_s: float | None = None) -> Snapshot:
    """Check that the snapshot of ``plan`` is whole on all devices, make it durable, and note it in the lineage.

    :param stopped_at_s: when the VM was stopped for it, on the monotonic clock; ``None`` where nobody knows any more.

    :raises QEMUFailed: where it is not whole.
    """
    snapshot = whole(plan, await vm.devices())
    if snapshot.memory == "pages" and not await in_thread(lambda: vm.store().has(snapshot.id)):
        raise QEMUFailed(f"The RAM pages of {snapshot.name} are not in the page store.")
    await asyncio.to_thread(images.flush, [d.file for d in snapshot.devices])
    snapshot = await _doubt_parent(vm, snapshot, stopped_at_s)
    await vm.append_lineage(create_record(snapshot))
    return snapshot


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


async def _doubt_parent(vm: VM, snapshot: Snapshot, stopped_at_s: float | None) -> Snapshot:
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


async def undo(vm: VM, plan: Plan, client: str, clock: Stopwatch, why: str) -> None:
    """Remove what a create has written, and end it in the journal.

    Effects on failure: the journal keeps it, and the next supervisor tries again.
    """
    name, id = plan.snapshot["name"], plan.snapshot["id"]
    # A save that fails cleans up by name in QEMU, and not always whole; ours is the only snapshot of this tag.
    await dismiss(vm.session, plan.job_id)
    await tags.remove(vm, plan.tag)
    await forget_pages(vm, id)
    await vm.append_lineage(delete_record([id]))
    entry = await vm.entry("create", name, id, client, clock=clock, result=f"failed: {why}")
    await vm.disk(vm.catalog.ended, entry)
    vm.publish(
        "SNAPSHOT_FAILED",
        {"name": name, "id": id, "duration_ms": entry.duration_ms, "operation": "create", "error": why},
    )


async def forget_pages(vm: VM, id: str) -> None:
    """Take a snapshot's pages out of the page store, where they are there.

    :raises PageStoreError: where that can't be; again goes on from there.
    """
    if vm.place.pages.exists():
        await in_thread(_forget_pages, vm, id)


def _forget_pages(vm: VM, id: str) -> None:
    store = vm.store()
    if store.has(id):
        if vm.paged is not None:
            vm.paged.forget(id)
        store.delete(id)


def check_description(description: str) -> None:
    """:raises UsageError: where a description is too long to keep, or no text (a command line may hold any bytes)."""
    if any("\ud800" <= c <= "\udfff" for c in description):
        raise UsageError("The description holds bytes that are no UTF-8.", "Give it in UTF-8.")
    if len(description) > DESCRIPTION_MAX:
        raise UsageError(f"The description has {len(description)} characters; {DESCRIPTION_MAX} fit.", "Shorten it.")
