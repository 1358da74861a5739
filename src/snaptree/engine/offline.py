"""What can be seen and changed of a VM that doesn't run, without QEMU.  Not for: its images' content."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..catalog.catalog import Catalog
from ..catalog.opening import open_catalog
from ..model.errors import Refused, SnaptreeError, VMRuns
from ..model.names import printable
from ..model.snapshot import Device, SnapshotJSON
from ..places.files import read_json
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..qemu import img
from . import images, views

T = TypeVar("T")


def disks_of(place: VMPlace) -> dict[str, Device]:
    """Return the VM's devices as they were when QEMU last ran, by name."""
    recorded = (read_json(place.command) or {}).get("disks")
    found = {}
    for item in recorded if isinstance(recorded, list) else []:
        try:
            device = Device(str(item["device"]), str(item["node"]), str(item["file"]), int(item["size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SnaptreeError(
                f"{place.command} does not describe the VM's disks.", 'Remove its member "disks", or the file.'
            ) from error
        found[device.device] = device
    return found


def snapshots(place: VMPlace, *, foreign: bool = False) -> list[SnapshotJSON]:
    """Return the snapshots of a VM that doesn't run."""
    with _reading(place) as catalog:
        return views.snapshots(catalog, disks_of(place), foreign=foreign)


def snapshot(place: VMPlace, *, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    """Return one snapshot of a VM that doesn't run, in full."""
    with _reading(place) as catalog:
        return views.snapshot(catalog, disks_of(place), name=name, id=id)


def history(place: VMPlace, limit: int | None = None) -> list[dict[str, object]]:
    """Return the history of a VM that doesn't run."""
    with _reading(place) as catalog:
        return views.history(catalog, limit)


def current(place: VMPlace) -> dict[str, object]:
    """Return the current snapshot of a VM that doesn't run."""
    with _reading(place) as catalog:
        return views.current(catalog)


def broken(place: VMPlace) -> str:
    """Return why nothing may go on from the disks as they are; empty where all is well."""
    with _reading(place) as catalog:
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
    lock = _lock(place)
    try:
        if snapshots:
            with _reading(place) as catalog:
                _delete_all(catalog, disks_of(place))
        place.remove()
    finally:
        lock.release()


def _delete_all(catalog: Catalog, disks: dict[str, Device]) -> None:
    known = catalog.snapshots()
    files = {device.file for device in disks.values()} | {d.file for snapshot in known for d in snapshot.devices}
    ours = {snapshot.tag for snapshot in known}
    doomed: dict[str, list[str]] = {}
    for file in sorted(files):
        table = images.table(file)
        if table is None:
            raise Refused(
                f"The image {printable(file)} cannot be read, so its snapshots cannot be deleted.",
                "Put it back, or forget the VM without --snapshots.",
            )
        doomed[file] = [entry.tag for entry in table if entry.tag in ours]
    # A snapshot that is gone from some images only is lost, so all are looked at before the first is changed.
    img.check_free(file for file, found in doomed.items() if found)
    for file, found in doomed.items():
        for tag in found:
            img.delete_snapshot(file, tag)


def client_name() -> str:
    """Return who we are, for history."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{user} snaptree[{os.getpid()}]"


@contextmanager
def _reading(place: VMPlace) -> Iterator[Catalog]:
    catalog = open_catalog(place)
    try:
        yield catalog
    finally:
        catalog.close()


def _lock(place: VMPlace) -> SupervisorLock:
    lock = SupervisorLock.take(place.lock)
    if lock is None:
        raise VMRuns(f"The VM {place.name} runs.", f"`snaptree stop {place.name}` ends it.")
    return lock


def _changing(place: VMPlace, change: Callable[[Catalog], T]) -> T:
    lock = _lock(place)
    try:
        with _reading(place) as catalog:
            return change(catalog)
    finally:
        lock.release()
