"""Keeping the present of a VM that doesn't run: its disks, before they go back or on.  Not for: RAM, which is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..catalog.undo import Undo
from ..model.errors import NotReady, SnaptreeError
from ..model.ids import NIL
from ..model.snapshot import Snapshot
from ..places import forks
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import imagelocks
from . import images, offline_create
from .automatic import Before, automatic_name, before_broken, before_unchanged, discarding, outdated
from .offline_delete import delete_held
from .offline_hold import Stopped, client_name, disks_of, opened, stopped
from .repair_journal import end_operation

log = logging.getLogger(__name__)


def keep_present(place: VMPlace, why: str, *, client: str = "", lock: SupervisorLock | None = None) -> Snapshot | None:
    """Take an automatic snapshot of the disks of a VM that doesn't run, where they are not at its current snapshot.

    Effects on success: what was cut off is finished or undone; every image holds the snapshot, which is current.
    Effects on failure: none.

    :param why: what is about to happen, for its description: ``before the load of X``.
    :param lock: the VM's lock, where the caller holds it; else it is taken.
    :return: ``None`` where nothing was to be kept: all disks are at the current snapshot, or a load that failed
        half way has left them in no state of the VM.
    :raises NotReady: where a disk cannot hold a snapshot.
    :raises VMRuns, Busy, Refused: where the VM or one of its images is in use.
    :raises ImageError: where qemu-img can't.
    """
    with _held(place, lock) as vm:
        if vm is None:
            return None
        end_operation(vm)
        return keep_held(vm, why, client=client or client_name())


def keep_held(vm: Stopped, why: str, *, client: str) -> Snapshot | None:
    """As :func:`keep_present`, for a caller who holds the VM and has settled what was cut off."""
    return _take(vm, why, client) if _has_changed(vm, _current(vm)) else None


def keep_before(vm: Stopped, target: Snapshot, keep: bool | None, *, client: str) -> Before:
    """Keep the disks before a load of ``target``, where their content would be lost.

    :param keep: whether to; ``None`` where nobody said it: then where it can be.
    :raises NotReady: where they shall be kept, and can't be.
    """
    current, snapshot = vm.catalog.current(), _current(vm)
    if vm.catalog.broken():
        return before_broken(current, snapshot)
    if not _has_changed(vm, snapshot):
        return before_unchanged(target, current, snapshot)
    if keep is False:
        return discarding(current)
    try:
        kept = _take(vm, f"before the load of {target.name}", client)
    except NotReady as error:
        if keep:
            raise
        log.warning("the disks could not be kept: %s", error)
        return discarding(current, not_kept=error.reasons[0].message)
    return Before(Undo(kept.id), kept=kept, back=kept)


def prune(vm: Stopped, *, client: str) -> None:
    """Delete the automatic snapshots that are too many.

    Effects on failure: some of them are left; the next time tries again.
    """
    try:
        undo = vm.catalog.undo()
        protected = {vm.catalog.current().id, undo.id if undo is not None else "", *forks.standing(vm.place).values()}
        for snapshot in outdated(vm.catalog.snapshots(), protected):
            delete_held(vm, snapshot, [snapshot], client=client)
    except SnaptreeError as error:
        log.warning("an old automatic snapshot could not be deleted: %s", error)


def _take(vm: Stopped, why: str, client: str) -> Snapshot:
    name = automatic_name(time.time_ns(), vm.catalog.names().values())
    return offline_create.create_held(vm, name, why, client=client, automatic=True)


def _current(vm: Stopped) -> Snapshot | None:
    current = vm.catalog.current()
    return vm.catalog.by_id(current.id) if current.id not in ("", NIL) else None


def _has_changed(vm: Stopped, snapshot: Snapshot | None) -> bool:
    """Say whether the disks hold what would be lost: they are in a state of the VM, and not at its current snapshot."""
    if vm.catalog.broken():
        return False
    if snapshot is None:
        return True
    return any(images.at_snapshot(device.file, snapshot.tag) is not True for device in vm.disks.values())


@contextmanager
def _held(place: VMPlace, lock: SupervisorLock | None) -> Iterator[Stopped | None]:
    if lock is None:
        with stopped(place) as vm:
            yield vm
        return
    disks = disks_of(place)
    if not disks:
        yield None  # it has never run
        return
    with opened(place) as catalog, imagelocks.held(device.file for device in disks.values()) as held:
        yield Stopped(place, catalog, lock, disks, held)
