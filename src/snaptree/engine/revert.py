"""The pause of a load: QEMU reverts the disks and reads the VM state, RAM is put back.  Not for: what is noted of it.

Whatever fails, it is found out how far QEMU came: the VM is as it was, or marked as broken and paused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from ..catalog.lineage import append, load_record
from ..model.errors import CatalogError, LoadIncomplete, NotReady, PageStoreError, QEMUFailed, QEMUGone
from ..model.snapshot import Snapshot
from ..qemu.facts import Facts
from ..qemu.jobs import dismiss, dismiss_soon, new_job_id, run_job
from ..qemu.reset import reset_for_load
from ..qemu.together import all_ended
from . import images, trace
from .automatic import Before
from .halfway import HalfWay, Plan, certainly_untouched, mark_broken, publish_failure, states
from .loadable import Ready, refuse_damaged
from .moments import Stands
from .outcome import Outcome
from .pause import Pause, paused
from .ramway import generation_id, in_job, in_thread, page_store_errors
from .stopwatch import Stopwatch
from .vm import VM

if TYPE_CHECKING:
    from .putting import Putting

UNDISTURBED_TRIES = 3


async def revert(vm: VM, plan: Plan, found: Ready, *, client: str, clock: Stopwatch) -> str:
    """Let QEMU load, and find out how far it came where it could not.

    Prerequisites: the gate is closed, the journal has the plan.
    Effects on success: the journal says durably that QEMU has loaded, and whatever the disks say later, the load only
    ends; the lineage says it too.

    :return: why the VM, which had run, could not continue afterwards; empty where all is well.
    :raises NotReady, QEMUFailed, LoadIncomplete, QEMUGone: as :func:`.load.load`.
    """
    try:
        async with paused(vm, clock, before=found.facts, ignoring_shared=found.ram is not None and vm.sole) as pause:
            if pause.facts is not None:
                found.check(pause.facts)
            pause.was_running = pause.was_running or (plan.returning and plan.was_running)
            if pause.was_running != plan.was_running:
                plan = replace(plan, was_running=pause.was_running)
                await vm.disk(vm.catalog.set_step, "begun", plan.to_json())
            trace.point("load.paused")
            pause.stay = True  # until it is known what QEMU has done
            await _Reverting(vm, plan, found, pause, client=client, clock=clock).perform()
            vm.broken = ""
            vm.warm = True
            vm.stands = Stands(plan.id, pause.resumed_before)
            pause.stay = False
            trace.point("load.noted")
    except (LoadIncomplete, QEMUGone):
        raise  # where QEMU has ended the journal stays: the next start looks at the disks
    except (QEMUFailed, NotReady) as error:
        await _undone(vm, plan, client, clock, str(error))
        raise
    return pause.stuck


class _Reverting:
    """One load in its pause.

    Steps that follow each other are done in one thread where they can be: to hand over costs 0.2 to 0.5 ms.

    :ivar plan: with what was at the snapshot already when the VM stood still.
    """

    def __init__(self, vm: VM, plan: Plan, found: Ready, pause: Pause, *, client: str, clock: Stopwatch) -> None:
        self.plan = plan
        self._vm = vm
        self._found = found
        self._facts = pause.facts or found.facts
        self._ram = found.ram
        self._pause = pause
        self._client = client
        self._clock = clock
        self._there: frozenset[str] = frozenset()  # the devices whose content is that of the snapshot, for certain

    async def perform(self) -> None:
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
                    await in_thread(ram.look)  # the reset has written into RAM
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
            await vm.disk(self._note, Outcome(well=True))
            return
        settled = Outcome()
        try:
            guid = await generation_id(vm) if ram is not None else ""
            await all_ended(vm.disk(self._note, settled), in_thread(settled.of, self._settle, guid))
        except (QEMUFailed, PageStoreError) as error:
            found = await asyncio.to_thread(states, self.plan)
            await self._break(found, str(error), error)
        finally:
            settled.give_up()

    async def _begin(self, ram: Putting | None) -> bool:
        """Note durably that from now on things are touched, find out how they are, and write RAM where it is first.

        :return: whether RAM was written.
        :raises NotReady: where the snapshot's pages are damaged.
        :raises CatalogError: where that cannot be noted.
        :raises PageStoreError: where RAM cannot be written.
        """
        step = "begun" if ram is None else "writing"
        noted = Outcome()
        noting = self._vm.disk(noted.of, self._vm.catalog.set_step, step, self.plan.to_json())
        write_to = ram if not self._facts.reset_before_load else None
        try:
            # Two threads, of which one mostly waits for the disk: more would wait for each other.
            _, looked = await all_ended(noting, in_thread(self._look, noted, write_to))
        except PageStoreError as error:
            self._pause.stay = False
            refuse_damaged(self._found.snapshot, error)
        except CatalogError:
            self._pause.stay = False
            raise
        finally:
            noted.give_up()
        same: tuple[str, ...]
        written: bool | PageStoreError
        same, written = looked
        self.plan = replace(self.plan, same=same)
        if isinstance(written, PageStoreError):
            raise written
        return written

    def _look(self, noted: Outcome, write_to: Putting | None) -> tuple[tuple[str, ...], bool | PageStoreError]:
        """Look at RAM and at the disks now that nothing writes to them, and once that is noted write RAM.

        The journal keeps what was seen before: a later supervisor that takes a device for reverted which was at the
        snapshot anyway loads once more, and that is right too.

        :param write_to: where RAM is written at once.
        :return: which disks are at the snapshot already; whether RAM was written, or what failed in that.
        """
        if self._ram is not None:
            self._ram.look()
        found = _at(self.plan.files, self.plan.tag)
        self._there = frozenset(device for device, at in found.items() if at)
        same = _same(found)
        if not noted.went_well() or write_to is None or self._pause.continued():
            return same, False
        try:
            with page_store_errors():
                write_to.write()
        except PageStoreError as error:
            return same, error
        return same, True

    def _settle(self, guid: str) -> None:
        """Bring RAM to what the snapshot has, and make sure that the disks are."""
        if self._ram is not None:
            self._ram.settle(guid)
        _verify(self.plan)

    def _note(self, settled: Outcome) -> None:
        """Note durably that QEMU has loaded, before the guest writes, as then the disks no longer tell.

        :param settled: when it is, the load only ends.
        """
        vm, plan = self._vm, self.plan
        vm.catalog.set_step("reverted", plan.to_json())
        note_in_lineage(vm, plan)
        if settled.went_well():
            trace.point("load.loaded")
            vm.catalog.set_step("loaded", plan.to_json(), durable=False)

    async def _load_pages(self, ram: Putting, *, written: bool) -> None:
        """Write RAM and let QEMU load; once more where another monitor continued the VM, as the guest then wrote too.

        :param written: RAM was written already.
        :raises QEMUFailed: where QEMU can't, or that happens again and again.
        """
        vm, pause = self._vm, self._pause
        for _ in range(UNDISTURBED_TRIES):
            # RAM first: while it loads, QEMU reads what a device has in RAM (virtio's rings).
            if not written:
                await in_thread(ram.write)
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
            await in_thread(ram.look)
        raise QEMUFailed(
            "Another monitor of this QEMU continued the VM again and again while it was being loaded.",
            "Do not use `cont` in another monitor meanwhile.",
        )

    async def _load_state(self) -> None:
        """Let QEMU load; devices whose content is that of the snapshot need not be reverted, which takes QEMU 2 ms."""
        plan = self.plan
        nodes = [
            node
            for device, node in zip(plan.files, plan.nodes, strict=True)
            if device not in self._there or node == plan.vmstate_node
        ]
        arguments = {"tag": plan.tag, "vmstate": plan.vmstate_node, "devices": nodes}
        async with in_job(self._vm, paged=self._ram is not None):
            await run_job(self._vm.session, "snapshot-load", arguments, plan.job_id, keep=True)

    async def _failed(self, why: str) -> NoReturn:
        """Decide after a failed load whether the VM may continue.

        :raises QEMUFailed: where nothing was touched.
        :raises HalfWay: where something was, or nobody knows; then the VM is marked as broken.
        """
        found = await asyncio.to_thread(states, self.plan)
        facts = await self._vm.facts()
        for device in facts.closed:
            # A `cont` with an image that QEMU has closed as corrupt aborts QEMU 7.2.
            found[device] = "closed"
        if certainly_untouched(found) and not facts.nodes_error and await self._ram_is_back():
            self._pause.stay = False
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
        await mark_broken(self._vm, self.plan, found, client=self._client, clock=self._clock, why=why)
        raise HalfWay(self._vm, self.plan, why) from cause


def note_in_lineage(vm: VM, plan: Plan) -> None:
    """Note durably that the snapshot was loaded, where a lost catalog comes back from."""
    append(vm.place.lineage, time.time_ns(), load_record(plan.id, plan.undo))


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
        same=_same(_at(files, snapshot.tag)),
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


def _at(files: dict[str, str], tag: str) -> dict[str, bool | None]:
    """Say for each device whether its content is that of the snapshot, as :func:`.images.at_snapshot`."""
    return {device: images.at_snapshot(file, tag) for device, file in files.items()}


def _same(found: dict[str, bool | None]) -> tuple[str, ...]:
    return tuple(device for device, at in found.items() if at is not False)


def _verify(plan: Plan) -> None:
    """Make sure that every device was reverted, by its image.

    :raises QEMUFailed: where one was not.
    """
    for device, file in plan.files.items():
        if images.at_snapshot(file, plan.tag) is False:
            raise QEMUFailed(f"QEMU says that it loaded {plan.name}, and {device} is not at it.")


async def _undone(vm: VM, plan: Plan, client: str, clock: Stopwatch, why: str) -> None:
    entry = await vm.entry("load", plan.name, plan.id, client, clock=clock, result=f"failed: {why}")
    await vm.disk(vm.catalog.ended, entry)
    await dismiss_soon(vm.session, plan.job_id)
    publish_failure(vm, plan, entry.duration_ms, why)
