"""What the journal and the lineage say of a load while it is carried out.  Not for: carrying it out.

A step is noted when it is sure, while something else is under way where it can be: to be durable takes 1 ms and more.

* ``planned``: before the VM is stopped, so that the next supervisor knows that it ran (:func:`.load.load`).
* ``begun``: durable before anything is touched; while QEMU stops the VM.  Until the next step it is undone.
* ``writing``: RAM is written from now on.  A crash of the host takes RAM along, so it need not outlast one.
* ``reverted``: QEMU has loaded.  Durable before the guest writes to the disks, as then they no longer tell.
* ``loaded``: RAM is settled, too.  The load only ends.

The lineage is written while QEMU continues the VM: until the load has ended, the journal brings it about again.

To note durably that the disks are reverted while QEMU still loads, as soon as it is seen in the images, was tried:
what it gains QEMU loses, as both need a core and the disk.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from ..catalog.lineage import append, load_record
from ..model.errors import CatalogError
from . import trace
from .halfway import Plan, verify
from .vm import VM


class Notes:
    """The notes of one load.  Each begins at once, in the order of the calls; its end is to be awaited.

    :param touched: another supervisor had begun it, and may have written RAM.
    :ivar unwritten: why the lineage could not be written; ``None`` where it was.
    """

    def __init__(self, vm: VM, *, touched: bool) -> None:
        self.unwritten: CatalogError | None = None
        self._vm = vm
        self._first = "writing" if touched else "begun"
        self._surely_begun = False
        self._surely_reverted = False

    def begun(self, plan: Plan) -> Awaitable[None]:
        """Note durably that the disks and RAM are touched from now on.

        :raises CatalogError: where it cannot be noted.
        """
        return self._vm.disk(self._begun, plan)

    def writing(self, plan: Plan) -> Awaitable[None]:
        """Note that RAM is written from now on, where the note that the load begins went well.

        :raises CatalogError: where it cannot be noted.
        """
        return self._vm.disk(self._writing, plan)

    def not_written(self, plan: Plan) -> None:
        """Note that RAM was not written after all, where ``writing`` may have been noted; here, in microseconds.

        :raises CatalogError: where it cannot be noted.
        """
        self._vm.catalog.mark(self._first, plan.job_id, durable=False)

    def reverted(self, plan: Plan, *, stands: bool = True) -> Awaitable[None]:
        """Note durably that QEMU has loaded, and make sure that the disks are reverted.

        :param stands: the VM stands still, so that the disks can tell.
        :raises QEMUFailed: where one was not.
        :raises CatalogError: where it cannot be noted.
        """
        return self._vm.disk(self._reverted, plan, stands=stands)

    def loaded(self, plan: Plan) -> None:
        """Note that RAM is settled, after ``reverted`` was; here, in microseconds.

        :raises CatalogError: where it cannot be noted.
        """
        trace.point("load.loaded")
        self._vm.catalog.mark("loaded", plan.job_id, durable=False)

    def in_lineage(self, plan: Plan) -> Awaitable[None]:
        """Note durably in the lineage that it was loaded, where the note that it is reverted went well.

        Where it can't be written :attr:`unwritten` says why: the journal stays, and the next operation writes it first.
        """
        return self._vm.disk(self._in_lineage, plan)

    def _begun(self, plan: Plan) -> None:
        self._surely_begun = False
        self._vm.catalog.open_mark()
        self._vm.catalog.set_step(self._first, plan.to_json())
        trace.point("load.begun")
        self._surely_begun = True

    def _writing(self, plan: Plan) -> None:
        if self._surely_begun:  # else the load is refused, and must not be taken for one to go on with
            self._vm.catalog.set_step("writing", plan.to_json(), durable=False)

    def _reverted(self, plan: Plan, *, stands: bool) -> None:
        self._vm.catalog.mark("reverted", plan.job_id, durable=True)
        if stands:
            verify(plan)
        self._surely_reverted = True

    def _in_lineage(self, plan: Plan) -> None:
        if not self._surely_reverted:
            return
        try:
            note_in_lineage(self._vm, plan)
        except CatalogError as error:
            error.message = f"{plan.name} was loaded, but that cannot be written down yet: {error.message}"
            self.unwritten = error


def note_in_lineage(vm: VM, plan: Plan) -> None:
    """Note durably that the snapshot was loaded, where a lost catalog comes back from."""
    append(vm.place.lineage, time.time_ns(), load_record(plan.id, plan.undo))
