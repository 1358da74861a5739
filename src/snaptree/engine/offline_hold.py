"""Holding a VM that doesn't run, so that nobody starts it or opens its images.  Not for: what is done meanwhile."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.history import Entry
from ..catalog.opening import open_catalog
from ..model.errors import Busy, Refused, SnaptreeError, VMRuns
from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Device, Snapshot
from ..places.files import read_json
from ..places.lock import SupervisorLock, holder
from ..places.places import VMPlace
from ..places.signals import undisturbed
from ..qcow2.image import list_snapshots
from ..qcow2.table import ImageSnapshot
from ..qemu import imagelocks, img
from ..qemu.imagelocks import HeldImages

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Done:
    """What an operation on a VM that doesn't run did.

    :param kept: the automatic snapshot that a load took of the disks before it.
    :param not_kept: why it took none, where it should have.
    """

    snapshot: Snapshot
    duration_ms: float
    kept: Snapshot | None = None
    not_kept: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A VM that doesn't run, in our hands: its lock, its catalog, and all its images.

    :ivar disks: the VM's devices as they were when QEMU last ran, by name.
    """

    place: VMPlace
    catalog: Catalog
    lock: SupervisorLock
    disks: dict[str, Device]
    images: HeldImages

    def table(self, device: str) -> tuple[ImageSnapshot, ...]:
        """Return what a device's image holds.

        :raises ImageError: where it can't be read.
        """
        return list_snapshots(self.disks[device].file)

    def create_tag(self, device: str, tag: str) -> ImageSnapshot:
        """Take a snapshot of one device; see :func:`.img.create_snapshot`."""
        return img.create_snapshot(self.images, self.disks[device].file, tag, inherit=[self.lock.fd])

    def apply_tag(self, device: str, tag: str) -> None:
        """Bring one device back to a snapshot; see :func:`.img.apply_snapshot`."""
        img.apply_snapshot(self.images, self.disks[device].file, tag, inherit=[self.lock.fd])

    def delete_tag(self, device: str, tag: str) -> None:
        """Take a snapshot off one device; see :func:`.img.delete_snapshot`."""
        img.delete_snapshot(self.images, self.disks[device].file, tag, inherit=[self.lock.fd])

    def append_lineage(self, record: dict[str, object]) -> None:
        """Append a record to the lineage file, durably."""
        lineage.append(self.place.lineage, time.time_ns(), record)

    def entry(
        self, action: str, name: str, id: str, client: str, *, clock: Callable[[], float] = lambda: 0.0, result: str
    ) -> Entry:
        """Return an entry of history for what ends now.

        :param clock: returns the milliseconds that it took.
        """
        current = self.catalog.current()
        found = self.catalog.by_id(current.id) if current.id not in ("", NIL) else None
        from_name = found.name if found else ""
        return Entry(time.time_ns(), action, name, id, current.id, from_name, client, clock(), 0.0, result)


def stopwatch() -> Callable[[], float]:
    """Return a function that says how many milliseconds ago it was made."""
    start = time.perf_counter()
    return lambda: round((time.perf_counter() - start) * 1000, 3)


@contextmanager
def stopped(place: VMPlace, *, wait: bool = True) -> Iterator[Stopped]:
    """Hold a VM that doesn't run: its lock, its catalog, and all its images or none.

    Within it a request to end (Ctrl-C) waits: what has begun goes on to its end.

    :param wait: wait for another command that works on the VM; else it is refused.
    :raises VMRuns: where the VM runs.
    :raises Busy: where another command works on it, and ``wait`` is false.
    :raises Refused: where it has no images yet, or one is in use or no file.
    """
    with locked(place, wait=wait) as lock, opened(place) as catalog:
        require_no_qemu(place)
        disks = known_disks(place, catalog)
        if not disks:
            raise Refused(
                f"It is not known which disks the VM {place.name} has.",
                f"`snaptree run {place.name} -- QEMU ARGS…` starts it; then they are.",
            )
        for device in disks.values():
            if not device.file.startswith("/"):
                raise Refused(
                    f"{device.device} of the VM {place.name} is {printable(device.file, 400)}, which is no local file.",
                    f"Start the VM: `snaptree run {place.name} -- QEMU ARGS…`.",
                )
        with undisturbed(), imagelocks.held(device.file for device in disks.values()) as images:
            yield Stopped(place, catalog, lock, disks, images)


@contextmanager
def locked(place: VMPlace, *, wait: bool = True) -> Iterator[SupervisorLock]:
    """Be the only one who works on a VM that doesn't run.

    :raises VMRuns: where somebody supervises it.
    :raises Busy: where another command works on it, and ``wait`` is false.
    """
    while (lock := SupervisorLock.take(place.lock, "command")) is None:
        by_whom = holder(place.lock)
        if by_whom == "supervisor":
            raise VMRuns(f"The VM {place.name} runs.", f"`snaptree stop {place.name}` ends it.")
        if by_whom == "command" and not wait:
            raise Busy(
                f"Another command works on the images of the VM {place.name}.", "Try again later, or let it wait."
            )
        time.sleep(POLL_S)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def opened(place: VMPlace) -> Iterator[Catalog]:
    """Open the catalog of a VM that nobody supervises.

    :raises CatalogError: where it is lost, or can't be used.
    """
    catalog = open_catalog(place)
    try:
        yield catalog
    finally:
        catalog.close()


def require_no_qemu(place: VMPlace) -> None:
    """:raises VMRuns: where QEMU runs without a supervisor."""
    state = place.state()
    if state.state == "unsupervised":
        pid = f" (pid {state.qemu_pid})" if state.qemu_pid else ""
        raise VMRuns(
            f"QEMU of the VM {place.name}{pid} runs, and nobody supervises it.",
            f"`snaptree attach {place.name}` takes it up again.",
        )


def known_disks(place: VMPlace, catalog: Catalog) -> dict[str, Device]:
    """Return the VM's devices as they were when QEMU last ran, or as its snapshots have them; empty where none has."""
    return disks_of(place) or {d.device: d for snapshot in catalog.snapshots() for d in snapshot.devices}


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


def client_name() -> str:
    """Return who we are, for history."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{user} snaptree[{os.getpid()}]"


def listed(devices: Sequence[str]) -> str:
    """Return the names of devices as they stand in a sentence."""
    return ", ".join(printable(device)[1:-1] for device in devices)
