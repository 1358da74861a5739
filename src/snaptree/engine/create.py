"""create: one new snapshot of the whole VM.  Not for: choosing a name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..catalog.history import Journal
from ..catalog.lineage import create_record, delete_record
from ..model.errors import NameTaken, NotReady, QEMUFailed, QEMUGone, SnaptreeError, UsageError
from ..model.ids import new_id
from ..model.names import check_name, printable
from ..model.reason import Reason
from ..model.snapshot import Snapshot
from ..qemu.facts import Facts
from ..qemu.jobs import dismiss, first_arguments, run_job
from ..qemu.together import all_ended
from . import images, tags, trace
from .moments import Stands
from .pause import Pause, paused
from .ramway import in_job, in_thread
from .room import explain_create
from .saved import Plan, Wanted, doubt_parent, new_plan, whole
from .status import create_reasons
from .stopwatch import Stopwatch
from .vm import VM

if TYPE_CHECKING:
    from .taking import Taking

DESCRIPTION_MAX = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """What an operation did."""

    snapshot: Snapshot
    duration_ms: float
    pause_ms: float


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
    begun: Plan | None = None
    async with _taking(vm, id) as taking:
        if taking is not None and await in_thread(taking.wants_round):
            async with vm.exclusive():
                begun, _ = await _prepare(vm, id, wanted, client)
            await _undoing(vm, begun, client, clock, _copy(vm, taking, clock))
        await asyncio.to_thread(images.flush, vm.files())
        async with vm.exclusive():
            if begun is None:
                plan, facts = await _prepare(vm, id, wanted, client)
            else:
                plan, facts = await _undoing(vm, begun, client, clock, _prepare_again(vm, begun, wanted))
            ram = taking if plan.snapshot["memory"] == "pages" else None
            trace.point("create.begun")
            pause = await _undoing(vm, plan, client, clock, _save(vm, plan, facts, clock, ram))
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
    await in_thread(taking.prepare)
    while await in_thread(taking.wants_round):
        async with vm.exclusive(), paused(vm, clock):
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


async def _prepare(vm: VM, id: str, wanted: Wanted, client: str) -> tuple[Plan, Facts]:
    """Make sure that a snapshot can be taken, and note durably that it begins."""
    facts = await _facts(vm)
    plan = await new_plan(vm, id, wanted, facts)
    trace.point("create.planned")
    await vm.disk(vm.catalog.begin, Journal("create", time.time_ns(), client, plan.to_json()))
    return plan, facts


async def _prepare_again(vm: VM, begun: Plan, wanted: Wanted) -> tuple[Plan, Facts]:
    """Make sure that a snapshot can still be taken, of the VM as it is now."""
    facts = await _facts(vm)
    plan = await new_plan(vm, begun.snapshot["id"], wanted, facts)
    plan = replace(plan, job_id=begun.job_id)
    if plan != begun:
        await vm.disk(vm.catalog.set_step, "begun", plan.to_json())
    return plan, facts


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
    flushing = asyncio.create_task(asyncio.to_thread(images.flush, plan.files))
    try:
        if taking is not None:
            await in_thread(taking.commit)
            trace.point("create.kept")
    finally:
        await flushing
    snapshot = await finish(vm, plan, stopped_at_s=clock.stopped_at_s)
    trace.point("create.whole")
    entry = await vm.entry("create", snapshot.name, snapshot.id, client, clock=clock)
    await vm.disk(vm.catalog.created, snapshot, entry)
    return snapshot


async def _save(vm: VM, plan: Plan, facts: Facts, clock: Stopwatch, taking: Taking | None) -> Pause:
    saving = ("snapshot-save", first_arguments(plan))
    async with paused(vm, clock, before=facts, paged=taking is not None, next_command=saving) as pause:
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
            async with in_job(vm, paged=True):
                await all_ended(pause.ignores_shared(), _save_state(vm, plan), in_thread(taking.last))
        pause.check_untouched()
        trace.point("create.saved")
        pause.job_id = plan.job_id
    return pause


async def _save_state(vm: VM, plan: Plan) -> None:
    arguments = {**first_arguments(plan), "devices": list(plan.nodes)}
    await run_job(vm.session, "snapshot-save", arguments, keep=True)


async def finish(vm: VM, plan: Plan, *, stopped_at_s: float | None = None) -> Snapshot:
    """Check that the snapshot of ``plan`` is whole on all devices, and note it in the lineage.

    Prerequisites: images and pages are flushed.

    :param stopped_at_s: when the VM was stopped for it, on the monotonic clock; ``None`` where nobody knows any more.

    :raises QEMUFailed: where it is not whole.
    """
    snapshot = whole(plan, await vm.devices())
    if snapshot.memory == "pages" and not await in_thread(lambda: vm.store().has(snapshot.id)):
        raise QEMUFailed(f"The RAM pages of {snapshot.name} are not in the page store.")
    snapshot = await doubt_parent(vm, snapshot, stopped_at_s)
    await vm.append_lineage(create_record(snapshot))
    return snapshot


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
