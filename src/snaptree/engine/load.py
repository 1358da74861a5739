"""load: bring the whole VM back to a snapshot.  Not for: a VM that doesn't run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from ..catalog import lineage
from ..catalog.history import Journal
from ..model.errors import QEMUFailed, QEMUGone, SnaptreeError
from ..model.snapshot import Snapshot
from ..qemu.jobs import dismiss_soon
from . import images, trace
from .automatic import Before
from .halfway import HalfWay, Plan
from .loadable import Ready, ready, ready_as_expected
from .noting import note_in_lineage
from .plans import new_plan
from .present import keep_before, look_here, prune, surely_discarding
from .revert import revert
from .stopwatch import Stopwatch
from .vm import VM

T = TypeVar("T")

log = logging.getLogger(__name__)

NOTHING = Before(None)


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
    Effects on failure: none where no device was touched, but that the present may be kept, and the VM have stood still
    for some milliseconds.  Else the VM is put back to where it was before, if that was kept.  Else it stays paused,
    ``status`` says which device is in which state, and nothing but another load goes on from there.

    :param keep: whether to take an automatic snapshot first, where the VM has run since its current one; without a word
        it is taken where that takes milliseconds, in pages.
    :raises NoSuchSnapshot, AmbiguousId, UsageError, NotReady, Busy: before anything was changed.
    :raises QEMUFailed: where QEMU could not load, and the VM is as it was.
    :raises LoadIncomplete: where it stopped half way.
    :raises QEMUGone: where QEMU ended meanwhile.
    :raises CatalogError: where it cannot be written down.  Where it was loaded already the error says so, the VM goes
        on, and the next operation writes it down first.
    """
    async with vm.operation("load", wait=wait):
        vm.require_qemu()

        def find() -> Snapshot:
            return vm.catalog.find(name=name, id=id)

        return await load_found(vm, find, allow_resize=allow_resize, keep=keep, client=client)


async def load_found(
    vm: VM, find: Callable[[], Snapshot], *, allow_resize: bool = False, keep: bool | None = None, client: str
) -> Loaded:
    """As :func:`load`, for a caller who holds the VM's lock.

    :param find: returns the snapshot, in the thread that uses the catalog.
    """
    if keep is False and vm.run_state == "running" and not vm.broken:
        async with vm.exclusive():
            clock = Stopwatch()
            begun = await _while_flushing(vm, vm.disk(_plan_discarding, vm, find, allow_resize, client))
            if begun is not None:
                return await _carry_out(vm, begun, client=client, clock=clock)
    snapshot, here = await vm.disk(lambda: (find(), look_here(vm)))
    before = await keep_before(
        vm, snapshot, here, keep, check=lambda: ready(vm, snapshot, allow_resize=allow_resize), client=client
    )
    trace.point("load.kept")
    async with vm.exclusive():
        clock = Stopwatch()
        begun = await _while_flushing(vm, _plan(vm, snapshot, before, allow_resize=allow_resize, client=client))
        loaded = await _carry_out(vm, begun, client=client, clock=clock)
    if before.kept is not None:
        await prune(vm, client=client, but=snapshot.id)
    return loaded


@dataclass(frozen=True, slots=True)
class _Begun:
    """A load that can be carried out, as far as could be found out while the VM runs."""

    found: Ready
    plan: Plan
    before: Before


def _begin(vm: VM, found: Ready, before: Before, client: str, *, goes_on: bool | None = None) -> _Begun:
    """Note that a load begins; not durably yet, :func:`.revert.revert` does so before anything is touched.

    :param goes_on: it goes back after another that failed half way, and the VM runs afterwards, or not.
    """
    plan = new_plan(found.snapshot, found.facts, before)
    if goes_on is not None:
        plan = replace(plan, was_running=goes_on, returning=True)
    trace.point("load.planned")
    # Before the VM is stopped: the next supervisor must know that it ran.
    vm.catalog.begin(Journal("load", time.time_ns(), client, plan.to_json(), "planned"), durable=False)
    return _Begun(found, plan, before)


def _plan_discarding(vm: VM, find: Callable[[], Snapshot], allow_resize: bool, client: str) -> _Begun | None:
    """Find out whether a snapshot can be loaded into a VM that runs, and whose present is thrown away; in one thread.

    :return: ``None`` where QEMU must be asked, or there is nothing to throw away.
    """
    snapshot, before = find(), surely_discarding(vm, look_here(vm))
    if before is None:
        return None
    trace.point("load.kept")
    return _begin_as_expected(vm, snapshot, before, allow_resize, client)


def _begin_as_expected(vm: VM, snapshot: Snapshot, before: Before, allow_resize: bool, client: str) -> _Begun | None:
    """Find out whether it can be loaded, and note that it begins; ``None`` where QEMU must be asked."""
    found = ready_as_expected(vm, snapshot, allow_resize=allow_resize)
    return _begin(vm, found, before, client) if found is not None else None


async def _plan(vm: VM, snapshot: Snapshot, before: Before, *, allow_resize: bool, client: str) -> _Begun:
    """Find out whether it can be loaded; in one thread where QEMU need not be asked."""
    begun = await vm.disk(_begin_as_expected, vm, snapshot, before, allow_resize, client)
    if begun is not None:
        return begun
    return await vm.disk(_begin, vm, await ready(vm, snapshot, allow_resize=allow_resize), before, client)


async def _while_flushing(vm: VM, work: Awaitable[T]) -> T:
    """Wait for ``work``; meanwhile the images are written back, so that QEMU finds little to flush in the pause."""
    flushing = asyncio.get_running_loop().run_in_executor(None, images.flush, vm.files())
    try:
        return await work
    finally:
        await flushing


async def _carry_out(vm: VM, begun: _Begun, *, client: str, clock: Stopwatch) -> Loaded:
    """Carry out a load, and return to the moment before where it fails half way and that was kept."""
    plan, before = begun.plan, begun.before
    try:
        stuck = await revert(vm, plan, begun.found, client=client, clock=clock)
    except HalfWay as error:
        if before.back is None or not await go_back(vm, before.back, goes_on=plan.was_running, client=client):
            raise
        raise QEMUFailed(
            f"The load of {plan.name} failed half way: {error.why} The VM was put back to where it was before;"
            " nothing was lost.",
            f"Mend the cause and load {plan.name} again, or load another snapshot.",
        ) from error
    clock.end()
    snapshot = begun.found.snapshot
    # The journal says durably that it is loaded, and the guest runs: nobody has to wait for the rest.
    vm.disk_soon(f"the load of {plan.name}", _note, vm, snapshot, plan, client, clock, reverted=True)
    loaded = _end(vm, plan, snapshot, clock, before)
    if stuck:
        raise QEMUFailed(
            f"{plan.name} was loaded, and the VM cannot continue: {stuck}", "It is paused; `cont` says why."
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
        found = await ready(vm, back, allow_resize=True, way_back=False)
        plan = (await vm.disk(_begin, vm, found, NOTHING, client, goes_on=goes_on)).plan
        trace.point("load.returning")
        await revert(vm, plan, found, client=client, clock=clock)
        await finish(vm, plan, back, client, clock, reverted=True)
    except QEMUGone:
        raise
    except SnaptreeError as error:
        log.error("the VM could not be put back to %s: %s", back.name, error)
        return not vm.broken  # it may be back, and only that could not be written down
    return True


async def finish(
    vm: VM, plan: Plan, snapshot: Snapshot, client: str, clock: Stopwatch, *, reverted: bool = False
) -> None:
    """Note that the snapshot was loaded, and is current.

    :param reverted: :func:`.revert.revert` has just noted it in the lineage, and durably that QEMU has loaded, and
        dismissed the job.
    """
    clock.end()
    await vm.disk(_note, vm, snapshot, plan, client, clock, reverted=reverted)
    if not reverted:
        await dismiss_soon(vm.session, plan.job_id)
    _end(vm, plan, snapshot, clock, NOTHING)


def _end(vm: VM, plan: Plan, snapshot: Snapshot, clock: Stopwatch, before: Before) -> Loaded:
    if any(size != vm.attached[name].size for name, size in _sizes(snapshot).items() if name in vm.attached):
        vm.forget_facts()  # a disk has its old size again
    loaded = Loaded(snapshot, clock.duration_ms(), clock.pause_ms(), before.kept, before.not_kept)
    trace.point("load.done")
    vm.publish(
        "SNAPSHOT_LOADED",
        {
            "name": snapshot.name,
            "id": snapshot.id,
            "duration_ms": loaded.duration_ms,
            "kept": before.kept.name if before.kept is not None else None,
            "not_kept": before.not_kept,
        },
    )
    return loaded


def _note(vm: VM, snapshot: Snapshot, plan: Plan, client: str, clock: Stopwatch, *, reverted: bool) -> None:
    """Note that the VM is at the snapshot, first where a lost catalog comes back from.

    Where the journal says durably that QEMU has loaded, a crash of the host that undoes this is followed by it again.
    """
    if reverted:
        lineage.flush(vm.place.lineage)
    else:
        note_in_lineage(vm, plan)
    entry = vm.entry_now("load", snapshot.name, snapshot.id, client, clock=clock)
    vm.catalog.loaded(snapshot.id, entry, plan.undo, durable=not reverted)


def _sizes(snapshot: Snapshot) -> dict[str, int]:
    return {device.device: device.size for device in snapshot.devices}
