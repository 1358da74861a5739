"""What the journal and the lineage say of a load while it is carried out.  Not for: carrying it out.

A step is noted when it is sure, while something else is under way where it can be: to be durable takes 1 ms and more.

* ``planned``: before the VM is stopped, so that the next supervisor knows that it ran (:func:`.load.load`).
* ``begun``: durable before anything is touched; while QEMU stops the VM.  Until the next step it is undone.
* ``writing``: RAM is written from now on.  A crash of the host takes RAM along, so it need not outlast one.
* ``reverted``: QEMU has loaded.  Durable before the guest writes to the disks, as then they no longer tell.
* ``loaded``: RAM is settled, too.  The load only ends.

The lineage is written while QEMU continues the VM, and durable before the load ends in the journal, which brings it
about again until then.

To note durably that the disks are reverted while QEMU still loads, as soon as it is seen in the images, was tried:
what it gains QEMU loses, as both need a core and the disk.
"""

from __future__ import annotations

import contextlib
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
        self._surely_reverted = False

    def begun(self, plan: Plan) -> Awaitable[None]:
        """Note durably that the disks and RAM are touched from now on.

        :raises CatalogError: where it cannot be noted.
        """
        return self._vm.disk(self._begun, plan)

    def writing(self, plan: Plan) -> None:
        """Note that RAM is written from now on, after ``begun`` was; here, in microseconds.

        :raises CatalogError: where it cannot be noted; RAM must not be written then.
        """
        try:
            self._vm.catalog.mark("writing", plan.job_id, durable=False)
        except CatalogError:
            # Where the end of this load can't be noted either, the next operation must not take it for one to go on
            # with.
            with contextlib.suppress(CatalogError):
                self._vm.catalog.mark(self._first, plan.job_id, durable=False)
            raise

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
        """Note in the lineage that it was loaded, where the note that it is reverted went well; not durably yet.

        Where it can't be written :attr:`unwritten` says why: the journal stays, and the next operation writes it first.
        """
        return self._vm.disk(self._in_lineage, plan)

    def _begun(self, plan: Plan) -> None:
        self._vm.catalog.open_mark()
        self._vm.catalog.set_step(self._first, plan.to_json())
        trace.point("load.begun")

    def _reverted(self, plan: Plan, *, stands: bool) -> None:
        self._vm.catalog.mark("reverted", plan.job_id, durable=True)
        if stands:
            verify(plan)
        self._surely_reverted = True

    def _in_lineage(self, plan: Plan) -> None:
        if not self._surely_reverted:
            return
        try:
            note_in_lineage(self._vm, plan, durable=False)
        except CatalogError as error:
            error.message = f"{plan.name} was loaded, but that cannot be written down yet: {error.message}"
            self.unwritten = error


def note_in_lineage(vm: VM, plan: Plan, *, durable: bool = True) -> None:
    """Note that the snapshot was loaded, where a lost catalog comes back from."""
    append(vm.place.lineage, time.time_ns(), load_record(plan.id, plan.undo), durable=durable)
