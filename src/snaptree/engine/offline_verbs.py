"""create, load, undo, delete, adopt on a VM that doesn't run, once what was cut off has ended.  Not for: their steps.

Each holds the VM and all its images first, so that nobody starts it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model.names import check_name
from ..model.snapshot import Snapshot
from ..model.tree import subtree
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import imagelocks
from . import adopt as adoption
from . import images
from .offline_create import create_held
from .offline_delete import delete_held
from .offline_hold import Done, Stopped, client_name, disks_of, opened, stopped, stopwatch
from .offline_keep import keep_held
from .offline_load import load_held
from .offline_recover import settle
from .undo_target import target


def create(place: VMPlace, name: str, description: str = "", *, client: str = "", wait: bool = True) -> Done:
    """Take a snapshot of the images of a VM that doesn't run.

    Prerequisites: ``name`` is a name and free; :func:`~.offline_reasons.create_reasons` finds nothing.
    Effects on success: every image holds the snapshot under one tag; it is in the catalog with ``memory`` "none", and
    current.
    Effects on failure: none; what was written of it is removed again, now or by the next command.

    :raises BadName, UsageError, NameTaken, NotReady, VMRuns, Busy, Refused: before anything was changed.
    :raises ImageError: where qemu-img can't.
    """
    from .create import check_description  # noqa: PLC0415  asyncio

    check_name(name)
    check_description(description)
    client = client or client_name()
    with stopped(place, wait=wait) as vm:
        clock = stopwatch()
        settle(vm)
        return Done(create_held(vm, name, description, client=client, clock=clock), clock())


def load(
    place: VMPlace,
    *,
    name: str | None = None,
    id: str | None = None,
    allow_resize: bool = False,
    keep: bool | None = None,
    client: str = "",
    wait: bool = True,
) -> Done:
    """Bring the images of a VM that doesn't run back to a snapshot.

    Prerequisites: :func:`~.offline_reasons.load_reasons` finds nothing.
    Effects on success: every image is as it was; the snapshot is current.  RAM of a snapshot that has it is not loaded:
    the VM starts cold from these disks, as after a power cut at that moment.  Where the disks were not at the current
    snapshot, an automatic one holds what they were, unless ``keep`` is false.
    Effects on failure: none before the first image was changed, but that the disks may be kept.  After it, the VM is
    marked as broken and says which image is in which state, until a load is whole.

    :param keep: whether to take that automatic one; without a word it is taken where it can be.
    :raises NoSuchSnapshot, AmbiguousId, UsageError, NotReady, VMRuns, Busy, Refused: before anything was changed.
    :raises LoadIncomplete: where it stopped half way.
    """
    client = client or client_name()
    with stopped(place, wait=wait) as vm:
        settle(vm)
        snapshot = vm.catalog.find(name=name, id=id)
        return load_held(vm, snapshot, allow_resize=allow_resize, keep=keep, client=client)


def undo(
    place: VMPlace, *, allow_resize: bool = False, keep: bool | None = None, client: str = "", wait: bool = True
) -> Done:
    """Bring the images back to where the VM was before its last load; as a load it can be undone itself.

    :raises Refused, NoSuchSnapshot: as :func:`.undo_target.target`.
    :raises NotReady, VMRuns, Busy, LoadIncomplete: as :func:`load`.
    """
    client = client or client_name()
    with stopped(place, wait=wait) as vm:
        settle(vm)
        return load_held(vm, target(vm.catalog, place.name), allow_resize=allow_resize, keep=keep, client=client)


def delete(
    place: VMPlace,
    *,
    name: str | None = None,
    id: str | None = None,
    children: bool = False,
    client: str = "",
    wait: bool = True,
) -> tuple[list[Snapshot], float]:
    """Delete a snapshot from all images of a VM that doesn't run; with ``children`` everything below it too.

    Prerequisites: the snapshot is there, and every image can be read.
    Effects on success: no image holds it, the catalog neither; its children go to its parent; where it was current its
    parent is.
    Effects on failure: as of :func:`.delete.delete`.

    :return: what is gone, the one that was named first; and how many milliseconds it took.
    :raises NoSuchSnapshot, AmbiguousId, UsageError, VMRuns, Busy, Refused: before anything was changed.
    :raises ImageError: where qemu-img can't.
    """
    client = client or client_name()
    with stopped(place, wait=wait) as vm:
        clock = stopwatch()
        settle(vm)
        snapshot = vm.catalog.find(name=name, id=id)
        doomed = subtree(vm.catalog.snapshots(), snapshot.id) if children else [snapshot]
        delete_held(vm, snapshot, doomed, client=client, clock=clock)
        return doomed[::-1], clock()


def adopt(place: VMPlace, tag: str, name: str, description: str = "", *, client: str = "", wait: bool = True) -> Done:
    """Take a snapshot that others took into the tree; see :func:`.adopt_running.adopt`.

    :raises BadName, NameTaken, NoSuchSnapshot, Refused, NotReady, VMRuns, Busy: before anything was changed.
    """
    from .create import check_description  # noqa: PLC0415  asyncio

    check_description(description)
    with stopped(place, wait=wait) as vm:
        clock = stopwatch()
        settle(vm)
        parts = [(device, images.table(device.file)) for device in vm.disks.values()]
        snapshot = adoption.choose(vm.catalog, tag, name, description, parts)
        adoption.commit(vm.catalog, place, snapshot, client or client_name(), clock())
        return Done(snapshot, clock())


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
        settle(vm)
        return keep_held(vm, why, client=client or client_name())


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
