"""Whether the disks of a VM that doesn't run can be snapshotted now, without holding it.  Not for: doing it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from ..catalog.history import Journal
from ..model.names import printable
from ..model.reason import Reason
from ..model.snapshot import Device
from ..places.lock import holder
from ..places.places import VMPlace
from ..qemu import imagelocks
from .offline_hold import known_disks, opened
from .offline_reasons import reasons_of_images


@dataclass(frozen=True, slots=True)
class Readiness:
    """What stands against a snapshot of the disks.

    :param reasons: empty where one can be taken.
    :param advice: what should be known all the same.
    :param busy: another command works on the images just now.
    """

    reasons: tuple[Reason, ...]
    advice: tuple[Reason, ...]
    busy: bool


def look(place: VMPlace) -> Readiness:
    """Look at the catalog and the images of a VM that doesn't run; nothing is changed.

    :raises CatalogError: where the catalog is lost, or can't be used.
    """
    busy = holder(place.lock) == "command"
    with opened(place) as catalog:
        disks, journal = known_disks(place, catalog), catalog.journal()
        reasons = (*_missing(place, disks), *reasons_of_images(place, catalog.broken(), _local(disks)))
    for device in _local(disks).values():
        reasons += tuple(_unusable(device, busy))
    return Readiness(reasons, _cut_off(journal) if journal is not None and not busy else (), busy)


def _local(disks: dict[str, Device]) -> dict[str, Device]:
    return {name: device for name, device in disks.items() if device.file.startswith("/")}


def _missing(place: VMPlace, disks: dict[str, Device]) -> Iterator[Reason]:
    start = f"Start the VM: `snaptree run {place.name} -- QEMU ARGS…`."
    if not disks:
        yield Reason("disks-unknown", f"It is not known which disks the VM {place.name} has.", start)
    for name in disks.keys() - _local(disks).keys():
        what = f"{name} is {printable(disks[name].file, 400)}, which is no local file."
        yield Reason("no-local-file", what, start, name)
    if shutil.which("qemu-img") is None:
        what = "There is no qemu-img on PATH, which changes the images of a VM that does not run."
        yield Reason("no-qemu-img", what, "Install qemu-utils, or put it on PATH.")


def _unusable(device: Device, busy: bool) -> Iterator[Reason]:
    name, file = device.device, printable(device.file, 400)
    if os.path.exists(device.file) and not os.access(device.file, os.W_OK):  # noqa: PTH110  a name may hold anything
        what = f"The image of {name}, {file}, may not be written by you."
        yield Reason("image-read-only", what, "Change its mode or its owner, or mount its file system writable.", name)
    if not busy and imagelocks.in_use(device.file):
        users = " and ".join(imagelocks.users_of(device.file)) or "another process"
        yield Reason("image-in-use", f"The image of {name}, {file}, is in use by {users}.", "End that process.", name)


def _cut_off(journal: Journal) -> tuple[Reason, ...]:
    operation = journal.operation.removeprefix("offline-")
    return (
        Reason(
            "cut-off",
            f"A {operation} was cut off in the middle.",
            "Nothing is to be done: the next command, or the next start, finishes or undoes it first.",
        ),
    )
