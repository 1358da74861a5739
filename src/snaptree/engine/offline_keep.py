"""Keeping the present of a VM that doesn't run: its disks, before they go back or on.  Not for: RAM, which is gone."""

from __future__ import annotations

import logging
import time

from ..catalog.undo import Undo
from ..model.errors import NotReady, SnaptreeError
from ..model.ids import NIL
from ..model.snapshot import Snapshot
from ..places import forks
from . import images, offline_create
from .automatic import Before, automatic_name, before_broken, before_unchanged, discarding, outdated
from .offline_delete import delete_held
from .offline_hold import Stopped

log = logging.getLogger(__name__)


def keep_held(vm: Stopped, why: str, *, client: str) -> Snapshot | None:
    """Take an automatic snapshot of the disks, where they are not at the current snapshot, and could be lost.

    :param why: what is about to happen, for its description: ``before the load of X``.
    """
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
