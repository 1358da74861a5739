"""Finish or undo what a dead supervisor left in the journal.  Not for: damage by others.

What has passed its point of no return rolls forward (delete, a load that has begun to revert), everything before rolls
back.  Whether QEMU is still the same process decides what can be known: the same one still has the job and its result.
"""

from __future__ import annotations

import asyncio
import logging

from ..catalog.history import Journal
from ..model.errors import NotReady, QEMUFailed, QEMUGone, SnaptreeError
from ..model.names import printable
from ..qemu.jobs import dismiss_leftovers, find_job, wait_job
from . import adopt, create, delete, halfway, images, load, loadable, plans, revert, saved, tags
from .ramway import stop_ignoring
from .recover_offline import recover_offline
from .stopwatch import Stopwatch
from .vm import VM

log = logging.getLogger(__name__)


async def recover(vm: VM, *, same_qemu: bool) -> str:
    """Bring the VM to a whole state after a supervisor died in the middle of an operation.

    Prerequisites: the caller holds the supervisor's lock; no client is served yet.
    Effects: the journal is empty, and the VM runs if it ran when the operation began; or it is marked as broken and
    paused.  Without a journal nothing but concluded jobs of ours is touched.

    :param same_qemu: QEMU is the process in which the operation began.
    :return: what was found and done, in a sentence; empty where nothing was to do.
    """
    vm.broken = await vm.disk(vm.catalog.broken)
    if same_qemu:
        await stop_ignoring(vm.session)
    async with vm.lock:
        said = await mend(vm, same_qemu=same_qemu, crashed=True)
        await dismiss_leftovers(vm.session)
    return said


async def mend(vm: VM, *, same_qemu: bool = True, crashed: bool = False) -> str:
    """Finish or undo what the journal holds; as :func:`recover`, for a caller who holds the VM's lock.

    :param crashed: a supervisor died, and may have left the VM stopped that it wanted to continue.
    """
    journal = await vm.disk(vm.catalog.journal)
    if journal is None:
        return ""
    async with vm.exclusive():
        match journal.operation:
            case "create":
                said = await _create(vm, journal, same_qemu, crashed and same_qemu)
            case "load":
                said = await _load(vm, journal, same_qemu, crashed and same_qemu)
            case "delete":
                said = await _delete(vm, journal)
            case "offline-create" | "offline-load":
                said = await recover_offline(vm, journal)
            case "adopt":
                said = await vm.disk(adopt.resume, vm.catalog, vm.place, journal)
            case "repair":
                said = await _repair(vm, journal)
            case other:
                raise SnaptreeError(f"The journal holds an operation {other!r} that this snaptree doesn't know.")
    log.warning("%s", said)
    return said


async def _settle(vm: VM, job_id: str, *, keep: bool = False) -> str | None:
    """Wait for a job that may still run; return its error (empty: it succeeded), or ``None`` where there is none."""
    if await find_job(vm.session, job_id) is None:
        return None
    return (await wait_job(vm.session, job_id, keep=keep)).error


async def _resume(vm: VM, *, wanted: bool) -> None:
    """Continue a VM that a dead supervisor has stopped."""
    if wanted and not (await vm.facts()).running:
        await vm.session.execute("cont")


async def _create(vm: VM, journal: Journal, same_qemu: bool, resume: bool) -> str:
    raw = dict(journal.plan)
    plan = saved.Plan(
        raw["snapshot"], tuple(raw["nodes"]), raw["vmstate_node"], raw["job_id"], bool(raw["was_running"])
    )
    name = plan.snapshot["name"]
    if same_qemu:
        await _settle(vm, plan.job_id)
    clock = Stopwatch()
    try:
        # QEMU writes the tag onto a device only when the VM state is whole, so a tag on all devices means all of it.
        await asyncio.to_thread(images.flush, plan.files)
        snapshot = await create.finish(vm, plan)
    except QEMUFailed:
        await create.undo(vm, plan, journal.client, clock, "its supervisor ended in the middle; removed")
        await _resume(vm, wanted=plan.was_running and resume)
        return f"The create of {name}, which was cut off, has been undone."
    await _resume(vm, wanted=plan.was_running and resume)
    entry = await vm.entry("create", name, snapshot.id, journal.client, clock=clock, result="ok, finished afterwards")
    await vm.disk(vm.catalog.created, snapshot, entry)
    return f"The create of {name}, which was cut off, has been finished."


async def _load(vm: VM, journal: Journal, same_qemu: bool, resume: bool) -> str:
    plan = halfway.read_plan(journal.plan)
    clock = Stopwatch()
    error = await _settle(vm, plan.job_id, keep=True) if same_qemu else None
    if same_qemu and plan.memory == "pages" and journal.step in ("writing", "reverted"):
        # RAM may hold any part of the snapshot already, and nothing knows what it was.
        return await _roll_forward(vm, plan, await asyncio.to_thread(halfway.states, plan), journal, resume)
    if error == "" or journal.step in halfway.REVERTED:
        snapshot = await vm.disk(vm.catalog.find, id=plan.id)
        vm.broken = ""
        await load.finish(vm, plan, snapshot, journal.client, clock)
        await _resume(vm, wanted=plan.was_running and resume)
        return f"The load of {plan.name}, which was cut off, has been finished."
    found = await asyncio.to_thread(halfway.states, plan)
    reverted = [device for device, word in found.items() if word == "reverted"]
    untouched = [device for device, word in found.items() if word == "untouched"]
    if not same_qemu and "unknown" in found.values():
        why = "QEMU ended in the middle, and not every image can be read from here"
        return await _break(vm, plan, found, journal, why=why, resume=resume)
    if error is not None and not halfway.certainly_untouched(found):
        return await _break(vm, plan, found, journal, why=error, resume=resume)
    if plan.returning:
        # Another load had failed half way before it: there is nothing to roll back to.
        return await _roll_forward(vm, plan, found, journal, resume)
    if not reverted:
        entry = await vm.entry(
            "load", plan.name, plan.id, journal.client, clock=clock, result="failed: cut off; undone"
        )
        await vm.disk(vm.catalog.ended, entry)
        await _resume(vm, wanted=plan.was_running and resume)
        return f"The load of {plan.name}, which was cut off, had changed nothing."
    if not untouched and not same_qemu:
        # All disks are at the snapshot; its RAM went with the old process, as in any cold start.
        snapshot = await vm.disk(vm.catalog.find, id=plan.id)
        await load.finish(vm, plan, snapshot, journal.client, clock)
        return f"The load of {plan.name}, which was cut off, has reverted all disks; the VM starts cold from them."
    return await _roll_forward(vm, plan, found, journal, resume)


async def _roll_forward(vm: VM, plan: halfway.Plan, found: dict[str, str], journal: Journal, resume: bool) -> str:
    """Load again what was loaded onto some devices only."""
    clock = Stopwatch()
    snapshot = await vm.disk(vm.catalog.find, id=plan.id)
    try:
        ready = await loadable.ready(vm, snapshot, allow_resize=True, way_back=False)
    except NotReady as error:
        return await _break(vm, plan, found, journal, why=error.message, resume=resume)
    fresh = plans.again(plan, ready.facts)
    try:
        # RAM that may be written stays so, where this is cut off, too.
        touched = journal.step not in ("planned", "begun")
        await revert.revert(vm, fresh, ready, client=journal.client, clock=clock, touched=touched)
    except halfway.HalfWay as error:
        return await _go_back(vm, plan, journal, why=error.why, resume=resume)
    except QEMUGone:
        raise
    except (QEMUFailed, NotReady) as error:
        found = await asyncio.to_thread(halfway.states, plan)
        return await _break(vm, plan, found, journal, why=str(error), resume=resume)
    await load.finish(vm, fresh, snapshot, journal.client, clock, reverted=True)
    await _resume(vm, wanted=plan.was_running and resume)
    return f"The load of {plan.name}, which was cut off half way, has been finished: the VM is at {plan.name}."


async def _break(vm: VM, plan: halfway.Plan, found: dict[str, str], journal: Journal, *, why: str, resume: bool) -> str:
    """Mark the VM as broken, and return to the moment before the load, where that was kept."""
    await halfway.mark_broken(vm, plan, found, client=journal.client, clock=Stopwatch(), why=why)
    return await _go_back(vm, plan, journal, why=why, resume=resume)


async def _go_back(vm: VM, plan: halfway.Plan, journal: Journal, *, why: str, resume: bool) -> str:
    back = await vm.disk(vm.catalog.by_id, plan.back) if plan.back else None
    goes_on = plan.was_running and resume
    if back is None or not await load.go_back(vm, back, goes_on=goes_on, client=journal.client):
        return f"The load of {plan.name} was cut off, and could not be finished: {why} {vm.broken}"
    return (
        f"The load of {plan.name} was cut off, and could not be finished: {why} The VM was put back to where it was"
        f" before ({back.name}); nothing was lost."
    )


async def _delete(vm: VM, journal: Journal) -> str:
    clock = Stopwatch()
    doomed = []
    for id in journal.plan["ids"]:
        snapshot = await vm.disk(vm.catalog.by_id, id)
        if snapshot is not None:
            doomed.append(snapshot)
    names = ", ".join(snapshot.name for snapshot in doomed)
    if not doomed:
        await vm.disk(vm.catalog.ended)
        return ""
    await delete.perform(vm, doomed, journal.client, clock)
    return f"The delete of {names}, which was cut off, has been finished."


async def _repair(vm: VM, journal: Journal) -> str:
    """Go on taking off what a repair had begun to take off, with its user's consent."""
    tag = str(journal.plan["tag"])
    await tags.remove(vm, tag)
    entry = await vm.entry("repair", "", "", journal.client, clock=Stopwatch(), result="ok, finished afterwards")
    await vm.disk(vm.catalog.ended, entry)
    return f"The removal of {printable(tag, 255)}, which a repair had begun, has been finished."
