"""What the journal and the lineage say of a load while it is carried out.  Not for: carrying it out.

A step is noted when it is sure, while something else is under way where it can be: to be durable takes 1 ms and more.

* ``begun``: durable before anything is touched; while QEMU stops the VM.  Until the next step it is undone.
* ``writing``: RAM is written from now on.  A crash of the host takes RAM along, so it need not outlast one.
* ``reverted``: durable before the guest writes to the disks, as then they no longer tell.  QEMU has reverted them all;
  it may still read the VM state.
* ``loaded``: QEMU has loaded all, and RAM is settled.  The load only ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..catalog.history import Journal
from ..catalog.lineage import append, load_record
from ..model.errors import CatalogError
from . import images, trace
from .halfway import Plan
from .outcome import Outcome
from .vm import VM

WATCHING_S = 0.1
"""So long at most the catalog waits for the disks; nothing is lost where that is not enough."""
FIRST_LOOK_S = 0.003
"""QEMU takes as long for two disks at least."""
LOOKING_EVERY_S = 0.0005


class Notes:
    """The notes of one load.

    :ivar seen: the disks were seen to be reverted, and that is noted durably.
    """

    def __init__(self, vm: VM, client: str) -> None:
        self.seen = False
        self._vm = vm
        self._client = client
        self._writing = Outcome()
        self._loading_over = threading.Event()

    async def begun(self, plan: Plan) -> None:
        """Note durably that a load begins, and that the disks and RAM are touched from now on.

        :raises CatalogError: where it cannot be noted.
        """
        journal = Journal("load", time.time_ns(), self._client, plan.to_json(), "begun")
        await self._vm.disk(self._begun, journal)

    async def writing(self, plan: Plan) -> None:
        """Note that RAM is written from now on; then :meth:`may_write`.

        :raises CatalogError: where it cannot be noted.
        """
        set_step = self._vm.catalog.set_step
        await self._vm.disk(self._writing.of, set_step, "writing", plan.to_json(), durable=False)

    def may_write(self) -> bool:
        """Wait, in another thread, until it is noted that RAM is written; and say whether it could be."""
        return self._writing.went_well()

    @asynccontextmanager
    async def while_loading(self, plan: Plan) -> AsyncIterator[None]:
        """Note durably that the disks are reverted as soon as they are, while QEMU still loads.

        Only where nobody else can load or let the guest write meanwhile.  What cannot be noted now is noted by
        :meth:`reverted`.
        """
        self._loading_over.clear()
        watching = asyncio.create_task(self._watch(plan))
        try:
            yield
        finally:
            self._loading_over.set()
            with contextlib.suppress(CatalogError):
                await watching

    async def reverted(self, plan: Plan, settled: Outcome) -> None:
        """Note that QEMU has loaded, and durably that the disks are reverted.

        :param settled: when RAM is, the load only ends; waited for in the thread of the catalog.
        :raises CatalogError: where it cannot be noted.
        """
        await self._vm.disk(self._reverted, plan, settled)

    async def in_lineage(self, plan: Plan) -> None:
        """Note durably that the snapshot was loaded, where a lost catalog comes back from.

        The VM may run on meanwhile: the journal says it too.

        :raises CatalogError: where it cannot be noted; the journal stays, and the next operation does this first.
        """
        await asyncio.sleep(0)  # what goes to QEMU goes first
        try:
            await self._vm.disk(note_in_lineage, self._vm, plan)
        except CatalogError as error:
            error.message = f"{plan.name} was loaded, but that cannot be written down yet: {error.message}"
            raise

    def give_up(self) -> None:
        """Let nobody wait for a note that nobody makes any more."""
        self._writing.give_up()

    def _begun(self, journal: Journal) -> None:
        self._vm.catalog.begin(journal, anew=True)
        trace.point("load.begun")

    async def _watch(self, plan: Plan) -> None:
        await asyncio.sleep(FIRST_LOOK_S)  # QEMU is asked first
        await self._vm.disk(self._note_when_reverted, plan)

    def _note_when_reverted(self, plan: Plan) -> None:
        until = time.monotonic() + WATCHING_S

        def go_on() -> bool:
            return not self._loading_over.wait(LOOKING_EVERY_S) and time.monotonic() < until

        if images.wait_until_at(plan.files.values(), plan.tag, go_on):
            self._vm.catalog.set_step("reverted", plan.to_json())
            self.seen = True
            trace.point("load.seen")

    def _reverted(self, plan: Plan, settled: Outcome) -> None:
        catalog, plan_json = self._vm.catalog, plan.to_json()
        if not self.seen:
            catalog.set_step("reverted", plan_json)
        if settled.went_well():
            trace.point("load.loaded")
            catalog.set_step("loaded", plan_json, durable=False)


def note_in_lineage(vm: VM, plan: Plan) -> None:
    """As :meth:`Notes.in_lineage`, in the thread of the catalog."""
    append(vm.place.lineage, time.time_ns(), load_record(plan.id, plan.undo))
