"""What the journal and the lineage say of a load while it is carried out.  Not for: carrying it out.

A step is noted when it is sure, while something else is under way where it can be: to be durable takes 1 ms and more.

* ``planned``: before the VM is stopped, so that the next supervisor knows that it ran (:func:`.load.load`).
* ``begun``: durable before anything is touched; while QEMU stops the VM.  Until the next step it is undone.
* ``writing``: RAM is written from now on.  A crash of the host takes RAM along, so it need not outlast one.
* ``reverted``: QEMU has loaded.  Durable before the guest writes to the disks, as then they no longer tell.
* ``loaded``: RAM is settled, too.  The load only ends.

To note durably that the disks are reverted while QEMU still loads, as soon as it is seen in the images, was tried:
what it gains QEMU loses, as both need a core and the disk.
"""

from __future__ import annotations

import time

from ..catalog.lineage import append, load_record
from ..model.errors import CatalogError
from . import trace
from .halfway import Plan, verify
from .outcome import Outcome
from .vm import VM


class Notes:
    """The notes of one load.

    :param touched: another supervisor had begun it, and may have written RAM.
    :ivar unwritten: why the lineage could not be written; ``None`` where it was.
    """

    def __init__(self, vm: VM, *, touched: bool) -> None:
        self.unwritten: CatalogError | None = None
        self._vm = vm
        self._first = "writing" if touched else "begun"
        self._writing = Outcome()

    async def begun(self, plan: Plan) -> None:
        """Note durably that the disks and RAM are touched from now on.

        :raises CatalogError: where it cannot be noted.
        """
        await self._vm.disk(self._begun, plan)

    async def writing(self, plan: Plan) -> None:
        """Note that RAM is written from now on; then :meth:`may_write`.

        :raises CatalogError: where it cannot be noted.
        """
        set_step = self._vm.catalog.set_step
        await self._vm.disk(self._writing.of, set_step, "writing", plan.to_json(), durable=False)

    def may_write(self) -> bool:
        """Wait, in another thread, until it is noted that RAM is written; and say whether it could be."""
        return self._writing.went_well()

    async def reverted(self, plan: Plan, settled: Outcome, *, stands: bool = True) -> None:
        """Note durably that QEMU has loaded, and make sure that the disks are reverted.

        The lineage gets it too, where a lost catalog comes back from.  Where that can't be written the load goes on:
        the journal stays, and the next operation writes it first.

        :param settled: when RAM is, the load only ends; waited for in the thread of the catalog.
        :param stands: the VM stands still, so that the disks can tell.
        :raises QEMUFailed: where one was not.
        :raises CatalogError: where it cannot be noted.
        """
        await self._vm.disk(self._reverted, plan, settled, stands=stands)

    def give_up(self) -> None:
        """Let nobody wait for a note that nobody makes any more."""
        self._writing.give_up()

    def _begun(self, plan: Plan) -> None:
        self._vm.catalog.set_step(self._first, plan.to_json())
        trace.point("load.begun")

    def _reverted(self, plan: Plan, settled: Outcome, *, stands: bool) -> None:
        catalog, plan_json = self._vm.catalog, plan.to_json()
        catalog.set_step("reverted", plan_json)
        if stands:
            verify(plan)
        try:
            note_in_lineage(self._vm, plan)
        except CatalogError as error:
            error.message = f"{plan.name} was loaded, but that cannot be written down yet: {error.message}"
            self.unwritten = error
        if settled.went_well():
            trace.point("load.loaded")
            catalog.set_step("loaded", plan_json, durable=False)


def note_in_lineage(vm: VM, plan: Plan) -> None:
    """Note durably that the snapshot was loaded, where a lost catalog comes back from."""
    append(vm.place.lineage, time.time_ns(), load_record(plan.id, plan.undo))
