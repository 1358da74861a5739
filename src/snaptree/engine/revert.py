"""The pause of a load: QEMU reverts the disks and reads the VM state, RAM is put back.  Not for: what is noted of it.

Whatever fails, it is found out how far QEMU came: the VM is as it was, or marked as broken and paused.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from ..model.errors import CatalogError, LoadIncomplete, NotReady, PageStoreError, QEMUFailed, QEMUGone
from ..qemu.jobs import dismiss, dismiss_soon, first_arguments, run_job
from ..qemu.reset import reset_for_load
from ..qemu.together import begun_ended
from . import trace
from .halfway import HalfWay, Plan, certainly_untouched, mark_broken, publish_failure, states
from .loadable import Ready
from .looking import Looking, with_ram
from .moments import ClockSeen, Stands
from .noting import Notes
from .pause import paused
from .plans import standing
from .ramway import generation_id, in_job, in_thread
from .stopwatch import Stopwatch
from .vm import VM

if TYPE_CHECKING:
    from .putting import Putting

UNDISTURBED_TRIES = 3


async def revert(vm: VM, plan: Plan, found: Ready, *, client: str, clock: Stopwatch, touched: bool = False) -> str:
    """Let QEMU load, and find out how far it came where it could not.

    Prerequisites: the gate is closed, the journal has the plan.
    Effects on success: the journal says durably that QEMU has loaded, and whatever the disks say later, the load only
    ends; the lineage says it too, not durably yet.

    :param touched: another supervisor had begun it, and may have written RAM.
    :return: why the VM, which had run, could not continue afterwards; empty where all is well.
    :raises CatalogError: where something of it could not be written down; the journal tells the next operation.
    :raises NotReady, QEMUFailed, LoadIncomplete, QEMUGone: as :func:`.load.load`.
    """
    reverting = _Reverting(vm, plan, found, client=client, clock=clock, touched=touched)
    try:
        await reverting.carry_out()
    except (LoadIncomplete, QEMUGone):
        raise  # where QEMU has ended the journal stays: the next start looks at the disks
    except (QEMUFailed, NotReady) as error:
        await _undone(vm, plan, client, clock, str(error))
        raise
    return reverting.stuck


class _Reverting:
    """One load in its pause.

    :ivar plan: with what was at the snapshot already when the VM stood still.
    :ivar stuck: why the VM, which had run, could not continue afterwards; empty where all is well.
    """

    def __init__(self, vm: VM, plan: Plan, found: Ready, *, client: str, clock: Stopwatch, touched: bool) -> None:
        self.plan = plan
        self.stuck = ""
        self._vm = vm
        self._found = found
        self._facts = found.facts
        self._ram = found.ram
        self._client = client
        self._clock = clock
        self._notes = Notes(vm, touched=touched)
        self._looking = Looking(vm, found, self._notes)
        self._there: frozenset[str] = frozenset()  # the devices whose content is that of the snapshot, for certain

    async def carry_out(self) -> None:
        """Stop the VM, revert it, and continue it."""
        vm, found = self._vm, self._found
        # A reset, where one is needed, comes first.
        loading = ("snapshot-load", first_arguments(self.plan)) if not found.facts.reset_before_load else None
        try:
            async with paused(
                vm,
                self._clock,
                before=found.facts,
                paged=found.ram is not None,
                next_command=loading,
                meanwhile=lambda: self._looking.begin(self.plan),
                at_once=lambda: self._looking.look(self.plan),
            ) as self._pause:
                self._pause.stay = bool(vm.broken)  # what another load has left half way must not be gone on with
                await self._check()
                trace.point("load.paused")
                self._pause.stay = True  # until it is known what QEMU has done
                await self._perform()
                vm.broken = ""
                vm.warm = True
                vm.clock_seen = ClockSeen(self.plan.id, found.snapshot.vm_clock_ns, self._clock.stopped_at_s)
                vm.stands = Stands(self.plan.id, self._pause.resumed_before)
                self._pause.stay = False
                self._pause.job_id = self.plan.job_id
                trace.point("load.noted")
                in_lineage = self._notes.in_lineage(self.plan)
        finally:
            await self._looking.end()
        await in_lineage
        self.stuck = self._pause.stuck
        if (error := self._notes.unwritten) is not None:
            error.message += f" It cannot continue: {self.stuck}" if self.stuck else ""
            raise error

    async def _check(self) -> None:
        """Decide by how the VM was just before it was stopped.

        :raises NotReady: where the snapshot can't be loaded any more.
        :raises CatalogError: where it cannot be noted.
        """
        pause, plan = self._pause, self.plan
        if pause.facts is not None:
            self._found.check(pause.facts)
            self._facts = pause.facts
        pause.was_running = pause.was_running or (plan.returning and plan.was_running)
        if pause.was_running != plan.was_running:
            self.plan = replace(plan, was_running=pause.was_running)
            await self._looking.begin_otherwise(self.plan)

    async def _perform(self) -> None:
        """Put RAM back and let QEMU load; where that fails, decide whether the VM may continue.

        :raises QEMUFailed: where nothing was touched.
        :raises HalfWay: where something was, or nobody knows; then the VM is marked as broken.
        """
        vm, pause, ram = self._vm, self._pause, self._ram
        try:
            written = await self._begin(ram)
            if self._facts.reset_before_load:
                self._there = frozenset()
                await reset_for_load(vm.session.execute, no_reboot=self._facts.host.no_reboot)
                if ram is not None:
                    await with_ram(vm, ram, ram.look)  # the reset has written into RAM
            if ram is None:
                await self._load_state()
            else:
                await self._load_pages(ram, written=written)
        except QEMUGone:
            raise
        except (QEMUFailed, PageStoreError) as error:
            await self._failed(str(error))
        trace.point("load.reverted")
        if pause.continued():
            # Another monitor continued the VM, QEMU did so too after the load, and the guest writes already.
            if vm.paged is not None and ram is not None:
                vm.paged.settle(None)
            await self._notes.reverted(self.plan, stands=False)
        else:
            reverted = self._notes.reverted(self.plan)
            try:
                # Where both fail, RAM that is not settled is the worse.
                await begun_ended(self._settle(ram), reverted)
            except (QEMUFailed, PageStoreError) as error:
                found = await asyncio.to_thread(states, self.plan)
                await self._break(found, str(error), error)
        self._notes.loaded(self.plan)

    async def _begin(self, ram: Putting | None) -> bool:
        """Once it is noted that the disks and RAM are touched, write RAM.

        :return: whether RAM was written; not where QEMU has to do something before.
        :raises CatalogError: where it cannot be noted.
        :raises QEMUFailed: where QEMU would not leave RAM out of what it loads.
        :raises PageStoreError: where RAM cannot be written.
        """
        try:
            found = await self._looking.disks()
            if ram is not None:
                await self._pause.ignores_shared()
                self._notes.writing(self.plan)
        except (CatalogError, QEMUFailed):
            self._pause.stay = bool(self._vm.broken)
            raise
        self._there = frozenset(device for device, at in found.items() if at)
        # The journal keeps what was seen before: a later supervisor that takes a device for reverted which was at the
        # snapshot anyway loads once more, and that is right too.
        self.plan = replace(self.plan, same=standing(found))
        if ram is None or self._facts.reset_before_load or self._pause.continued():
            return False
        await with_ram(self._vm, ram, ram.write)
        return True

    async def _settle(self, ram: Putting | None) -> None:
        if ram is not None:
            await with_ram(self._vm, ram, ram.settle, await generation_id(self._vm))

    async def _load_pages(self, ram: Putting, *, written: bool) -> None:
        """Write RAM and let QEMU load; once more where another monitor continued the VM, as the guest then wrote too.

        :param written: RAM was written already.
        :raises QEMUFailed: where QEMU can't, or that happens again and again.
        """
        vm, pause = self._vm, self._pause
        for _ in range(UNDISTURBED_TRIES):
            # RAM first: while it loads, QEMU reads what a device has in RAM (virtio's rings).
            if not written:
                await with_ram(vm, ram, ram.write)
            written = False
            trace.point("load.ram")
            if not pause.continued():
                try:
                    await self._load_state()
                except QEMUGone:
                    raise
                except QEMUFailed:
                    if not pause.continued():
                        raise
                if not pause.continued():
                    return
                await dismiss(vm.session, self.plan.job_id)
            await vm.session.execute("stop")
            pause.resumed_before = vm.resumed
            self._there = frozenset()
            await with_ram(vm, ram, ram.look)
        raise QEMUFailed(
            "Another monitor of this QEMU continued the VM again and again while it was being loaded.",
            "Do not use `cont` in another monitor meanwhile.",
        )

    async def _load_state(self) -> None:
        """Let QEMU load.

        Devices whose content is that of the snapshot already need not be reverted, which takes QEMU 2 ms for each; but
        where another monitor can continue the VM, the guest may write to them before QEMU loads.
        """
        plan = self.plan
        there = self._there if self._vm.sole else ()
        nodes = [
            node
            for device, node in zip(plan.files, plan.nodes, strict=True)
            if device not in there or node == plan.vmstate_node
        ]
        arguments = {**first_arguments(plan), "devices": nodes}
        async with in_job(self._vm, paged=self._ram is not None):
            await run_job(self._vm.session, "snapshot-load", arguments, keep=True)

    async def _failed(self, why: str) -> NoReturn:
        """Decide after a failed load whether the VM may continue.

        :raises QEMUFailed: where nothing was touched.
        :raises HalfWay: where something was, or nobody knows; then the VM is marked as broken.
        """
        vm = self._vm
        found = await asyncio.to_thread(states, self.plan)
        facts = await vm.facts()
        for device in facts.closed:
            # A `cont` with an image that QEMU has closed as corrupt aborts QEMU 7.2.
            found[device] = "closed"
        if certainly_untouched(found) and not facts.nodes_error and await self._ram_is_back():
            self._pause.stay = bool(vm.broken)
            raise QEMUFailed(why, "No disk was changed.")
        await self._break(found, why)

    async def _ram_is_back(self) -> bool:
        if self._ram is None:
            return True
        try:
            return not self._pause.continued() and await in_thread(self._ram.put_back)
        except PageStoreError:
            return False

    async def _break(self, found: dict[str, str], why: str, cause: Exception | None = None) -> NoReturn:
        self._pause.stay = True
        await mark_broken(self._vm, self.plan, found, client=self._client, clock=self._clock, why=why)
        raise HalfWay(self._vm, self.plan, why) from cause


async def _undone(vm: VM, plan: Plan, client: str, clock: Stopwatch, why: str) -> None:
    entry = await vm.entry("load", plan.name, plan.id, client, clock=clock, result=f"failed: {why}")
    await vm.disk(vm.catalog.ended, entry)
    await dismiss_soon(vm.session, plan.job_id)
    publish_failure(vm, plan, entry.duration_ms, why)
