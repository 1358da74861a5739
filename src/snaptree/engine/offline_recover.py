"""Finish or undo what the journal of a VM that doesn't run holds.  Not for: a VM that runs.

The images are held, so nothing else changes them.  A create that is not whole is taken off again; a load that has
changed an image goes on, as a delete does.  So it is with what was cut off while the VM ran: of that, see
:mod:`.repair_journal`.
"""

from __future__ import annotations

import logging

from ..catalog.history import Journal
from ..catalog.opening import has_content
from ..model.errors import ImageError, SnaptreeError
from ..model.names import printable
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import imagelocks
from . import adopt, offline_create, offline_delete, offline_load, repair_journal
from .offline_hold import Stopped, disks_of, opened

log = logging.getLogger(__name__)


def settle(vm: Stopped) -> str:
    """Bring a VM that doesn't run to a whole state after a command, its supervisor or QEMU was killed in the middle.

    Effects on success: the journal is empty.
    Effects on failure: the journal is as it was; or the VM is marked as broken.

    :return: what was found and done, in a sentence; empty where nothing was to do.
    :raises ImageError, LoadIncomplete: where it can't be now.
    :raises SnaptreeError: where the journal holds what nobody knows.
    """
    journal = vm.catalog.journal()
    if journal is None:
        return ""
    said = _settle(vm, journal)
    if said:
        log.warning("%s", said)
    return said


def before_start(place: VMPlace, lock: SupervisorLock) -> str:
    """As :func:`settle`, for a supervisor that is about to start QEMU; what QEMU itself left waits for that.

    :raises Refused: where an image is in use.
    """
    if not has_content(place):
        return ""
    with opened(place) as catalog:
        journal = catalog.journal()
        if journal is None or not journal.operation.startswith("offline-"):
            return ""
        disks = disks_of(place)
        with imagelocks.held(device.file for device in disks.values()) as images:
            return settle(Stopped(place, catalog, lock, disks, images))


def _settle(vm: Stopped, journal: Journal) -> str:
    client, plan = journal.client, journal.plan
    match journal.operation:
        case "offline-create":
            try:
                offline_create.finish(vm, plan, client, result=f"{offline_create.OK}, finished afterwards")
            except ImageError:
                offline_create.undo(vm, plan, client, why="cut off in the middle; removed")
                return f"The create of {plan['name']}, which was cut off, has been undone."
            return f"The create of {plan['name']}, which was cut off, has been finished."
        case "offline-load":
            return offline_load.resume(vm, plan, journal.step, client)
        case "delete":
            return offline_delete.resume(vm, list(plan["ids"]), client)
        case "adopt":
            return adopt.resume(vm.catalog, vm.place, journal)
        case "create":
            return repair_journal.end_create(vm, journal)
        case "load":
            return repair_journal.end_load(vm, journal)
        case "repair":
            return repair_journal.end_repair(vm, journal)
        case other:
            raise SnaptreeError(
                f"The journal of the VM {vm.place.name} holds an operation {printable(other)} that this snaptree"
                " doesn't know.",
                "Use the snaptree that wrote it, or a newer one.",
            )
