"""load: bring the whole VM back to a snapshot.  Not for: a VM that doesn't run."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..catalog.history import Journal
from ..catalog.lineage import load_record
from ..model.errors import LoadIncomplete, PageStoreError, QEMUFailed, QEMUGone, SnaptreeError
from ..model.snapshot import Snapshot
from ..qemu.facts import Facts
from ..qemu.jobs import dismiss, new_job_id, run_job
from ..qemu.reset import reset_for_load
from . import images, trace
from .automatic import Before
from .halfway import HalfWay, Plan, certainly_untouched, mark_broken, publish_failure, states
from .loadable import ready
from .pause import Pause, paused
from .present import keep_before, prune
from .ramway import generation_id, ignoring_shared, in_thread
from .vm import VM, ClockSeen, Stands, Stopwatch

if TYPE_CHECKING:
    from .putting import Putting

log = logging.getLogger(__name__)

NOTHING = Before(None)
UNDISTURBED_TRIES = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did; its times are its own, without what it took to keep the present.

    :param kept: the automatic snapshot that was taken of the present before it.
    :param not_kept: why none was taken, where it should have been.
    """

    snapshot: Snapshot
    duration_ms: float
    pause_ms: float
    kept: Snapshot | None = None
    not_kept: str = ""


async def load(
    vm: VM,
    *,
    name: str | None = None,
    id: str | None = None,
    allow_resize: bool = False,
    keep: bool | None = None,
    client: str,
    wait: bool = True,
) -> Loaded:
    """Bring the whole VM, all devices, device state and RAM, back to a snapshot.

    Prerequisites: :func:`~.status.load_reasons` finds nothing.
    Effects on success: every device and RAM are as they were; the snapshot is current; the VM runs exactly if it ran
    before.  Where it had run since its current snapshot, an automatic one holds how it was before, if it was kept;
    the oldest automatic ones are deleted where there are too many.
    Effects on failure: none where no device was touched, but that the present may be kept.  Else the VM is put back to
    where it was before, if that was kept.  Else it stays paused, ``status`` says which device is in which state, and
    nothing but another load goes on from there.

    :param keep: whether to take an automatic snapshot first, where the VM has run since its current one; without a word
        it is taken where that takes milliseconds, in pages.
    :raises NoSuchSnapshot, AmbiguousId, UsageError, NotReady, Busy: before anything was changed.
    :raises QEMUFailed: where QEMU could not load, and the VM is as it was.
    :raises LoadIncomplete: where it stopped half way.
    :raises QEMUGone: where QEMU ended meanwhile.
    """
    async with vm.operation("load", wait=wait):
        vm.require_qemu()
        snapshot = await vm.disk(vm.catalog.find, name=name, id=id)
        return await load_held(vm, snapshot, allow_resize=allow_resize, keep=keep, client=client)


async def load_held(
    vm: VM, snapshot: Snapshot, *, allow_resize: bool = False, keep: bool | None = None, client: str
) -> Loaded:
    """As :func:`load`, for a caller who holds the VM's lock."""
    before = await keep_before(
        vm, snapshot, keep, check=lambda: ready(vm, snapshot, allow_resize=allow_resize), client=client
    )
    trace.point("load.kept")
    clock = Stopwatch()
    await asyncio.to_thread(images.flush, vm.files())
    async with vm.exclusive():
        facts, ram = await ready(vm, snapshot, allow_resize=allow_resize)
        plan = await asyncio.to_thread(_plan, snapshot, facts, before)
        trace.point("load.planned")
        await vm.disk(vm.catalog.begin, Journal("load", time.time_ns(), client, plan.to_json()))
        trace.point("load.begun")
        try:
            stuck = await perform(vm, plan, facts, ram, client=client, clock=clock)
        except HalfWay as error:
            if before.back is None or not await go_back(vm, before.back, goes_on=facts.running, client=client):
                raise
            raise QEMUFailed(
                f"The load of {plan.name} failed half way: {error.why} The VM was put back to where it was before;"
                " nothing was lost.",
                f"Mend the cause and load {plan.name} again, or load another snapshot.",
            ) from error
    loaded = await finish(vm, plan, snapshot, client, clock, before=before)
    await prune(vm, client=client)
    if stuck:
        raise QEMUFailed(
            f"{snapshot.name} was loaded, and the VM cannot continue: {stuck}", "It is paused; `cont` says why."
        )
    return loaded


async def go_back(vm: VM, back: Snapshot, *, goes_on: bool, client: str) -> bool:
    """Load the snapshot of the moment before a load that failed half way.

    Prerequisites: the caller holds the VM's lock, its gate is closed, the VM is marked as broken.
    Effects on success: the VM is as it was before; it runs if ``goes_on``.
    Effects on failure: it stays broken.

    :return: whether it is back.
    :raises QEMUGone: where QEMU ended meanwhile.
    """
    clock = Stopwatch()
    try:
        facts, ram = await ready(vm, back, allow_resize=True, way_back=False)
        plan = await asyncio.to_thread(_plan, back, facts, NOTHING)
        plan = replace(plan, was_running=goes_on, returning=True)
        await vm.disk(vm.catalog.begin, Journal("load", time.time_ns(), client, plan.to_json()))
        trace.point("load.returning")
        await perform(vm, plan, facts, ram, client=client, clock=clock)
        await finish(vm, plan, back, client, clock)
    except QEMUGone:
        raise
    except SnaptreeError as error:
        log.error("the VM could not be put back to %s: %s", back.name, error)
        return False
    return True


async def perform(vm: VM, plan: Plan, facts: Facts, ram: Putting | None, *, client: str, clock: Stopwatch) -> str:
    """Let QEMU load, and find out how far it came where it could not.

    Prerequisites: the gate is closed, the journal has the plan.
    Effects on success: the journal says that QEMU has loaded; whatever the disks say later, the load only ends.

    :return: why the VM, which had run, could not continue afterwards; empty where all is well.
    :raises QEMUFailed, LoadIncomplete, QEMUGone: as :func:`load`.
    """
    try:
        async with paused(vm, clock) as pause:
            pause.was_running = pause.was_running or (plan.returning and plan.was_running)
            plan = await _look_again(vm, plan, was_running=pause.was_running)
            trace.point("load.paused")
            pause.stay = True  # until it is known what QEMU has done
            await _load_or_settle(vm, plan, facts, ram, pause, client=client, clock=clock)
            trace.point("load.loaded")
            await vm.disk(vm.catalog.set_step, "loaded", plan.to_json())
            vm.broken = ""
            vm.warm = True
            vm.stands = Stands(plan.id, pause.resumed_before)
            pause.stay = False
            trace.point("load.noted")
    except (LoadIncomplete, QEMUGone):
        raise  # where QEMU has ended the journal stays: the next start looks at the disks
    except QEMUFailed as error:
        await _undone(vm, plan, client, clock, str(error))
        raise
    return pause.stuck


async def _load_or_settle(
    vm: VM, plan: Plan, facts: Facts, ram: Putting | None, pause: Pause, *, client: str, clock: Stopwatch
) -> None:
    """Put RAM back and let QEMU load; where that fails, decide whether the VM may continue."""
    try:
        if facts.reset_before_load:
            await reset_for_load(vm.session.execute, no_reboot=facts.host.no_reboot)
        if ram is None:
            await _load_state(vm, plan)
        else:
            # A crash of the host takes QEMU's RAM with it, so it need not be durable.
            await vm.disk(vm.catalog.set_step, "writing", plan.to_json(), durable=False)
            await _load_pages(vm, plan, ram, pause)
    except QEMUGone:
        raise
    except (QEMUFailed, PageStoreError) as error:
        await failed(vm, plan, ram, pause, client=client, clock=clock, why=str(error))
    trace.point("load.reverted")
    if pause.continued():
        if vm.paged is not None and ram is not None:
            vm.paged.settle(None)
        return  # another monitor continued the VM, QEMU did so too after the load, and the guest writes already
    try:
        if ram is not None:
            await in_thread(ram.settle, await generation_id(vm))
        await asyncio.to_thread(_verify, plan)
    except (QEMUFailed, PageStoreError) as error:
        found = await asyncio.to_thread(states, plan)
        await mark_broken(vm, plan, found, client=client, clock=clock, why=str(error))
        raise HalfWay(vm, plan, str(error)) from error


async def _load_pages(vm: VM, plan: Plan, ram: Putting, pause: Pause) -> None:
    """Write RAM and let QEMU load; once more where another monitor continued the VM, as the guest then wrote too.

    :raises QEMUFailed: where QEMU can't, or that happens again and again.
    """
    for _ in range(UNDISTURBED_TRIES):
        # RAM first: while it loads, QEMU reads what a device has in RAM (virtio's rings).
        await in_thread(ram.write)
        trace.point("load.ram")
        if not pause.continued():
            try:
                async with ignoring_shared(vm.session):
                    await _load_state(vm, plan)
            except QEMUGone:
                raise
            except QEMUFailed:
                if not pause.continued():
                    raise
            if not pause.continued():
                return
            await dismiss(vm.session, plan.job_id)
        await vm.session.execute("stop")
        pause.resumed_before = vm.resumed
    raise QEMUFailed(
        "Another monitor of this QEMU continued the VM again and again while it was being loaded.",
        "Do not use `cont` in another monitor meanwhile.",
    )


async def _load_state(vm: VM, plan: Plan) -> None:
    arguments = {"tag": plan.tag, "vmstate": plan.vmstate_node, "devices": list(plan.nodes)}
    await run_job(vm.session, "snapshot-load", arguments, plan.job_id, keep=True)


async def finish(
    vm: VM, plan: Plan, snapshot: Snapshot, client: str, clock: Stopwatch, *, before: Before = NOTHING
) -> Loaded:
    """Note that the snapshot was loaded, and is current."""
    if any(size != vm.attached[name].size for name, size in _sizes(snapshot).items() if name in vm.attached):
        vm.forget_facts()  # a disk has its old size again
    vm.clock_seen = ClockSeen(snapshot.id, snapshot.vm_clock_ns, clock.stopped_at_s)
    await vm.append_lineage(load_record(snapshot.id, plan.undo))
    entry = await vm.entry("load", snapshot.name, snapshot.id, client, clock=clock)
    await vm.disk(vm.catalog.loaded, snapshot.id, entry, plan.undo)
    await dismiss(vm.session, plan.job_id)
    trace.point("load.done")
    vm.publish(
        "SNAPSHOT_LOADED",
        {
            "name": snapshot.name,
            "id": snapshot.id,
            "duration_ms": entry.duration_ms,
            "kept": before.kept.name if before.kept is not None else None,
            "not_kept": before.not_kept,
        },
    )
    return Loaded(snapshot, entry.duration_ms, entry.pause_ms, before.kept, before.not_kept)


def _sizes(snapshot: Snapshot) -> dict[str, int]:
    return {device.device: device.size for device in snapshot.devices}


def _plan(snapshot: Snapshot, facts: Facts, before: Before) -> Plan:
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
        same=_same(files, snapshot.tag),
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


def _same(files: dict[str, str], tag: str) -> tuple[str, ...]:
    return tuple(device for device, file in files.items() if images.at_snapshot(file, tag) is not False)


async def _look_again(vm: VM, plan: Plan, *, was_running: bool) -> Plan:
    """Look at the disks now that nothing writes to them.

    The journal keeps what was seen before: a later supervisor that takes a device for reverted which was at the
    snapshot anyway loads once more, and that is right too.
    """
    same = await asyncio.to_thread(_same, plan.files, plan.tag)
    if was_running != plan.was_running:
        plan = replace(plan, was_running=was_running)
        await vm.disk(vm.catalog.set_step, "begun", plan.to_json())
    return replace(plan, same=same)


def _verify(plan: Plan) -> None:
    """Make sure that every device was reverted, by its image.

    :raises QEMUFailed: where one was not.
    """
    for device, file in plan.files.items():
        if images.at_snapshot(file, plan.tag) is False:
            raise QEMUFailed(f"QEMU says that it loaded {plan.name}, and {device} is not at it.")


async def failed(
    vm: VM, plan: Plan, ram: Putting | None, pause: Pause, *, client: str, clock: Stopwatch, why: str
) -> None:
    """Decide after a failed load whether the VM may continue.

    :raises QEMUFailed: where nothing was touched.
    :raises LoadIncomplete: where something was, or nobody knows; then the VM is marked as broken.
    """
    found = await asyncio.to_thread(states, plan)
    facts = await vm.facts()
    for device in facts.closed:
        # A `cont` with an image that QEMU has closed as corrupt aborts QEMU 7.2.
        found[device] = "closed"
    if (
        certainly_untouched(found)
        and not facts.nodes_error
        and (ram is None or (not pause.continued() and await _put_back(ram)))
    ):
        pause.stay = False
        raise QEMUFailed(why, "No disk was changed.")
    await mark_broken(vm, plan, found, client=client, clock=clock, why=why)
    raise HalfWay(vm, plan, why)


async def _put_back(ram: Putting) -> bool:
    try:
        return await in_thread(ram.put_back)
    except PageStoreError:
        return False


async def _undone(vm: VM, plan: Plan, client: str, clock: Stopwatch, why: str) -> None:
    entry = await vm.entry("load", plan.name, plan.id, client, clock=clock, result=f"failed: {why}")
    await vm.disk(vm.catalog.ended, entry)
    await dismiss(vm.session, plan.job_id)
    publish_failure(vm, plan, entry.duration_ms, why)
