"""Keeping the present of a VM that doesn't run: its disks, before they go back or on.  Not for: RAM, which is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..model.ids import NIL
from ..model.snapshot import Snapshot
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import imagelocks
from . import images, offline_create
from .automatic import automatic_name
from .offline_hold import Stopped, client_name, disks_of, opened, stopped
from .offline_recover import settle


def keep_present(place: VMPlace, why: str, *, client: str = "", lock: SupervisorLock | None = None) -> Snapshot | None:
    """Take an automatic snapshot of the disks of a VM that doesn't run, where they are not at its current snapshot.

    Prerequisites: what QEMU has left in the journal is finished or undone.
    Effects on success: every image holds the snapshot, which is current.
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
        settle(vm)
        return keep_held(vm, why, client=client or client_name())


def keep_held(vm: Stopped, why: str, *, client: str) -> Snapshot | None:
    """As :func:`keep_present`, for a caller who holds the VM and has settled what was cut off."""
    if not changed(vm):
        return None
    name = automatic_name(time.time_ns(), vm.catalog.names().values())
    return offline_create.create_held(vm, name, why, client=client, automatic=True)


def changed(vm: Stopped) -> bool:
    """Say whether the disks hold what would be lost: they are in a state of the VM, and not at its current snapshot."""
    if vm.catalog.broken():
        return False
    current = vm.catalog.current()
    snapshot = vm.catalog.by_id(current.id) if current.id not in ("", NIL) else None
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
