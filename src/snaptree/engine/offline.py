"""What can be seen and changed of a VM that doesn't run, without QEMU.  Not for: its images' content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..catalog.catalog import Catalog
from ..model.errors import Refused
from ..model.names import printable
from ..model.snapshot import Device, SnapshotJSON
from ..places import forks
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import imagelocks, img
from . import images, origins, views
from .entries import is_of
from .offline_hold import client_name, disks_of, locked, opened
from .origins import Origin

__all__ = [
    "broken",
    "check_removable",
    "client_name",
    "current",
    "describe",
    "disks_of",
    "forget",
    "history",
    "remove_fork",
    "rename",
    "snapshot",
    "snapshots",
]

T = TypeVar("T")


def snapshots(place: VMPlace, *, foreign: bool = False) -> list[SnapshotJSON]:
    """Return the snapshots of a VM that doesn't run."""
    with opened(place) as catalog:
        return views.snapshots(catalog, place, disks_of(place), foreign=foreign)


def snapshot(place: VMPlace, *, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    """Return one snapshot of a VM that doesn't run, in full."""
    with opened(place) as catalog:
        return views.snapshot(catalog, place, disks_of(place), name=name, id=id)


def history(place: VMPlace, limit: int | None = None) -> list[dict[str, object]]:
    """Return the history of a VM that doesn't run."""
    with opened(place) as catalog:
        return views.history(catalog, limit)


def current(place: VMPlace) -> dict[str, object]:
    """Return the current snapshot of a VM that doesn't run."""
    with opened(place) as catalog:
        return views.current(catalog)


def broken(place: VMPlace) -> str:
    """Return why nothing may go on from the disks as they are; empty where all is well."""
    with opened(place) as catalog:
        return catalog.broken()


def rename(place: VMPlace, new_name: str, *, name: str | None = None, id: str | None = None) -> None:
    """Give a snapshot of a VM that doesn't run another name; see :func:`.rename.rename`."""
    from .rename import rename_in  # noqa: PLC0415  asyncio

    _changing(place, lambda c: rename_in(c, place, new_name, name=name, id=id, client=client_name()))


def describe(place: VMPlace, description: str, *, name: str | None = None, id: str | None = None) -> None:
    """Give a snapshot of a VM that doesn't run another description; see :func:`.rename.describe`."""
    from .rename import describe_in  # noqa: PLC0415  asyncio

    _changing(place, lambda c: describe_in(c, place, description, name=name, id=id, client=client_name()))


def forget(place: VMPlace, *, snapshots: bool = False) -> None:
    """End our care of a VM that doesn't run: its folder goes, its images stay.

    :param snapshots: delete its snapshots from its images first.
    Effects on failure: the VM is as it was, but for the snapshots that were deleted already; it can be tried again.

    :raises VMRuns: where it runs.
    :raises Refused: where an image is in use; nothing was changed.
    :raises ImageError: where an image can't be changed.
    """
    if (origin := origins.read(place)) is not None:
        raise Refused(
            f"{place.name} is a fork of {origin.vm}: its disks are in its folder, and would be gone.",
            f"`snaptree stop --delete {place.name}` removes it whole.",
        )
    with locked(place) as lock:
        check_no_forks(place)
        if snapshots:
            with opened(place) as catalog:
                _delete_all(catalog, disks_of(place), lock)
        place.remove()


def remove_fork(place: VMPlace) -> None:
    """Remove a fork that doesn't run: its folder with its disks, its snapshots and its RAM.

    Effects on success: nothing of it is left; the snapshot that it stood on can be deleted again.
    Effects on failure: it can be tried again.

    :raises Refused: where it is no fork, or other forks stand on it.
    :raises VMRuns: where it runs.
    """
    origin = check_removable(place)
    with locked(place):
        check_no_forks(place)
        place.remove()
    forks.unpin(replace(place, name=origin.vm, directory=place.directory.parent / origin.vm), place.name)


def check_removable(place: VMPlace) -> Origin:
    """Return what a fork was made from.

    :raises Refused: where it is no fork, or other forks stand on it.
    """
    origin = origins.read(place)
    if origin is None:
        raise Refused(
            f"The VM {place.name} is no fork, and its disks are not ours to remove.",
            f"`snaptree stop {place.name}` ends it, `snaptree forget {place.name}` ends our care of it.",
        )
    check_no_forks(place)
    return origin


def check_no_forks(place: VMPlace) -> None:
    """:raises Refused: where forks stand on a VM's snapshots; it names them."""
    standing = ", ".join(forks.standing(place))
    if standing:
        raise Refused(
            f"Forks stand on snapshots of {place.name}: {standing}.",
            "Remove them first: `snaptree stop --delete FORK`.",
        )


def _delete_all(catalog: Catalog, disks: dict[str, Device], lock: SupervisorLock) -> None:
    known = catalog.snapshots()
    files = {device.file for device in disks.values()} | {d.file for snapshot in known for d in snapshot.devices}
    by_tag = {snapshot.tag: snapshot for snapshot in known}
    doomed: dict[str, list[str]] = {}
    for file in sorted(files):
        table = images.table(file)
        if table is None:
            raise Refused(
                f"The image {printable(file)} cannot be read, so its snapshots cannot be deleted.",
                "Put it back, or forget the VM without --snapshots.",
            )
        doomed[file] = [entry.tag for entry in table if entry.tag in by_tag and is_of(by_tag[entry.tag], entry)]
    # A snapshot that is gone from some images only is lost, so all are held before the first is changed.
    with imagelocks.held(file for file, found in doomed.items() if found) as held:
        for file, found in doomed.items():
            for tag in dict.fromkeys(found):
                img.delete_snapshot(held, file, tag, inherit=[lock.fd])


def _changing(place: VMPlace, change: Callable[[Catalog], T]) -> T:
    with locked(place), opened(place) as catalog:
        return change(catalog)
