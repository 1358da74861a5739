"""The present of a VM that runs: whether something would be lost with it, and keeping it.  Not for: going elsewhere.

A load throws the present away, and so does the end of QEMU.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..catalog.catalog import Current
from ..catalog.undo import Undo
from ..model.errors import NotReady, SnaptreeError
from ..model.ids import NIL
from ..model.reason import Reason
from ..model.snapshot import Memory, Snapshot
from ..places import forks
from ..qemu.facts import Facts
from . import images
from .automatic import Before, automatic_name, before_broken, before_unchanged, discarding, outdated
from .create import create_held
from .delete import delete_held
from .ramway import in_thread, memory_now
from .saved import Wanted
from .status import create_reasons
from .stopwatch import Stopwatch
from .vm import VM

log = logging.getLogger(__name__)

Here: TypeAlias = tuple[Current, Snapshot | None]
"""Which snapshot is current; itself, where it is there."""

NOTHING_RUN = frozenset({"prelaunch", "inmigrate"})
"""In these run states the guest has not run yet in this QEMU."""


@dataclass(frozen=True, slots=True)
class Present:
    """What a VM is now, beside its current snapshot.

    :param changed: it has run since, so that there is something to lose.
    :param memory: how its RAM would be kept.
    :param current: the name of the current snapshot; empty where there is none.
    :param reasons: why it can't be kept.
    """

    changed: bool
    memory: Memory
    current: str
    reasons: tuple[Reason, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of ``query-vm-changed``."""
        return {
            "changed": self.changed,
            "memory": self.memory,
            "current": self.current,
            "reasons": [reason.to_json() for reason in self.reasons],
        }


async def look(vm: VM) -> Present:
    """Find out whether the VM has run since its current snapshot.  The caller holds its lock."""
    return await _look(vm, await vm.facts(), (await vm.disk(look_here, vm))[1])


async def keep_before(
    vm: VM, target: Snapshot, here: Here, keep: bool | None, *, check: Callable[[], Awaitable[object]], client: str
) -> Before:
    """Keep the present before a load of ``target``, where it would be lost.  The caller holds the VM's lock.

    Effects on success: where it was kept, the automatic snapshot is current.
    Effects on failure: none.

    :param here: as :func:`look_here` says it.
    :param keep: whether to; ``None`` where nobody said it: then in pages, which costs milliseconds.
    :param check: raises where the load will be refused; nothing is taken then.
    :raises NotReady: where it shall be kept, and can't be.
    """
    current, snapshot = here
    if vm.broken:
        return before_broken(current, snapshot)
    if keep is False:
        if (before := surely_discarding(vm, here)) is not None:
            return before
        facts, _ = await vm.facts_for(lambda facts: ())
        changed = await _has_changed(vm, facts, snapshot)
        return discarding(current) if changed else before_unchanged(target, current, snapshot)
    facts, _ = await vm.facts_for(lambda facts: create_reasons(vm, facts))
    present = await _look(vm, facts, snapshot)
    if not present.changed:
        return before_unchanged(target, current, snapshot)
    if keep is None and present.memory == "full":
        return discarding(current)
    if present.reasons:
        first = present.reasons[0]
        if keep:
            raise NotReady(
                f"The present of {vm.place.name} cannot be kept: {first.message}",
                "With --discard (QMP: keep false) it is thrown away.",
                present.reasons,
            )
        log.warning("the present could not be kept: %s", first.message)
        return discarding(current, not_kept=first.message)
    await check()
    kept = await keep_now(vm, f"before the load of {target.name}", client=client)
    return Before(Undo(kept.id), kept=kept, back=kept)


def surely_discarding(vm: VM, here: Here) -> Before | None:
    """Return what a load finds that keeps nothing; ``None`` where there may be nothing to lose, or nobody knows."""
    current, snapshot = here
    return discarding(current) if vm.run_state == "running" and not _stands(vm, snapshot) else None


async def keep_now(vm: VM, why: str, *, client: str) -> Snapshot:
    """Take an automatic snapshot.  The caller holds the VM's lock.

    :param why: for its description.
    :raises NotReady, QEMUFailed, PageStoreError: as a create.
    """
    name = automatic_name(time.time_ns(), (await vm.disk(vm.catalog.names)).values())
    try:
        return (await create_held(vm, Wanted(name, why, automatic=True), client=client)).snapshot
    except SnaptreeError as error:
        error.message = f"The present of {vm.place.name} could not be kept: {error.message}"
        raise


async def prune(vm: VM, *, client: str, but: str = "") -> None:
    """Delete the automatic snapshots that are too many.  The caller holds the VM's lock.

    Effects on failure: some of them are left; the next time tries again.

    :param but: the id of one that stays.
    """
    try:
        undo = await vm.disk(vm.catalog.undo)
        protected = {(await vm.disk(vm.catalog.current)).id, undo.id if undo is not None else "", but}
        protected |= set((await asyncio.to_thread(forks.standing, vm.place)).values())
        for snapshot in outdated(await vm.disk(vm.catalog.snapshots), protected):
            await delete_held(vm, snapshot, [snapshot], client=client, clock=Stopwatch())
    except SnaptreeError as error:
        log.warning("an old automatic snapshot could not be deleted: %s", error)


def look_here(vm: VM) -> Here:
    """Return which snapshot is current, in the thread that uses the catalog."""
    current = vm.catalog.current()
    return current, vm.catalog.by_id(current.id) if current.id not in ("", NIL) else None


async def _look(vm: VM, facts: Facts, snapshot: Snapshot | None) -> Present:
    changed = await _has_changed(vm, facts, snapshot)
    reasons = create_reasons(vm, facts) if changed else ()
    return Present(changed, memory_now(vm, facts)[0], snapshot.name if snapshot is not None else "", reasons)


async def _has_changed(vm: VM, facts: Facts, snapshot: Snapshot | None) -> bool:
    if vm.broken:
        return False
    if snapshot is None:
        return True
    if await _ram_has_changed(vm, facts, snapshot):
        return True
    files = [device.file for device in facts.devices]
    at = await asyncio.to_thread(lambda: [images.at_snapshot(file, snapshot.tag) for file in files])
    return any(found is not True for found in at)


def _stands(vm: VM, snapshot: Snapshot | None) -> bool:
    """Say whether the VM is known not to have been continued since the snapshot."""
    stands = vm.stands
    return stands is not None and snapshot is not None and (stands.id, stands.resumed) == (snapshot.id, vm.resumed)


async def _ram_has_changed(vm: VM, facts: Facts, snapshot: Snapshot) -> bool:
    """Say whether the VM has run since the snapshot; where that can't be known, it has."""
    if facts.run_state in NOTHING_RUN:
        return False
    if _stands(vm, snapshot):
        return False
    paged = vm.paged
    if paged is None or paged.base != snapshot.id:
        return True
    return await in_thread(lambda: bool(len(paged.pending) or len(paged.tracker.peek(1))))
