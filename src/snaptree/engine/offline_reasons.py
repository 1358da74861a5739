"""Every reason why the images of a VM that doesn't run cannot be snapshotted, or brought back.  Not for: doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..model.errors import ImageError
from ..model.names import printable
from ..model.reason import Reason
from ..model.snapshot import Device, Snapshot
from ..places.places import VMPlace
from ..qcow2.errors import NotQcow2
from ..qcow2.header import CRYPT_NONE, Header
from ..qcow2.image import Image
from ..qcow2.table import ImageSnapshot
from .entries import is_of, strangers, tag_is_id
from .offline_hold import Stopped

Table = tuple[ImageSnapshot, ...]


def create_reasons(vm: Stopped) -> tuple[Reason, ...]:
    """Return every reason why no snapshot can be taken of the images now; empty where one can."""
    return reasons_of_images(vm.place, vm.catalog.broken(), vm.disks)


def reasons_of_images(place: VMPlace, broken: str, disks: Mapping[str, Device]) -> tuple[Reason, ...]:
    """As :func:`create_reasons`, for a VM that nobody holds.

    :param broken: what the catalog says of a load that failed half way; may be empty.
    """
    incomplete: tuple[Reason, ...] = ()
    if broken:
        incomplete = (
            Reason(
                "load-incomplete",
                f"A load failed half way. {broken}",
                f"Load a snapshot: `snaptree load {place.name} NAME`; any whole load makes the VM whole.",
            ),
        )
    return (*incomplete, *(reason for device in disks.values() for reason in _image(device)[0]))


def load_reasons(vm: Stopped, snapshot: Snapshot, *, allow_resize: bool = False) -> tuple[Reason, ...]:
    """Return every reason why the images cannot be brought back to ``snapshot`` now; empty where they can.

    :param allow_resize: the user agrees that disks that were resized since get the size back that they had.
    """
    return tuple(_load(vm, snapshot, allow_resize))


def _load(vm: Stopped, snapshot: Snapshot, allow_resize: bool) -> Iterator[Reason]:
    if snapshot.flaw:
        yield Reason("flawed", f"{snapshot.name} is not whole: {snapshot.flaw}", "Load another snapshot.")
    clocks = set()
    for recorded in snapshot.devices:
        device = vm.disks.get(recorded.device)
        if device is None:
            yield Reason(
                "device-gone",
                f"The snapshot holds {recorded.device}, which the VM no longer has.",
                f"Attach its image {printable(recorded.file, 400)} as {recorded.device}, as it was, and start the VM.",
                recorded.device,
            )
            continue
        reasons, header, table = _image(device)
        yield from reasons
        if header is None:
            continue
        yield from _bitmaps(device, header)
        yield from _entry(device, snapshot, table)
        found = next((entry for entry in table if is_of(snapshot, entry)), None)
        if found is not None:
            clocks.add(found.vm_clock_ns)
            if not allow_resize and found.disk_size not in (None, header.disk_size):
                yield _resized(device, header.disk_size, found.disk_size or 0)
    for name, device in vm.disks.items():
        if name not in {recorded.device for recorded in snapshot.devices}:
            yield Reason(
                "device-new",
                f"{name} ({printable(device.file, 400)}) is writable, and the snapshot does not hold it: it would"
                " stay as it is now, while the other disks go back.",
                "Start the VM without it, or with it read-only.",
                name,
            )
    if snapshot.memory != "none" and clocks and clocks != {snapshot.vm_clock_ns}:
        yield Reason(
            "vm-clock",
            f"The devices' parts of {snapshot.name} are not of the moment of the VM's clock that was recorded.",
            "Load another snapshot.",
        )


def _image(device: Device) -> tuple[list[Reason], Header | None, Table]:
    """Look at a device's image: what stands against any change, its header, and its snapshots."""
    name, file = device.device, printable(device.file, 400)
    try:
        with Image.open(device.file) as image:
            header, table = image.header, image.snapshots()
    except NotQcow2:
        how = f"`qemu-img convert -O qcow2` makes a qcow2 image of it; start the VM with that as {name}."
        return [Reason("not-qcow2", f"The image of {name}, {file}, is no qcow2 image.", how, name)], None, ()
    except ImageError as error:
        what = f"The image of {name} cannot be read: {error.message}"
        how = "Put it back where it was, or check it: `qemu-img check`."
        return [Reason("image-unreadable", what, how, name)], None, ()
    found = []
    if header.corrupt:
        found.append(
            Reason(
                "corrupt",
                f"The image of {name}, {file}, is marked as corrupt.",
                "Repair it with `qemu-img check -r all`.",
                name,
            )
        )
    if header.external_data_file:
        found.append(
            Reason(
                "external-data-file",
                f"The image of {name}, {file}, keeps its data in another file, and cannot hold snapshots.",
                "Convert it with `qemu-img convert -O qcow2`.",
                name,
            )
        )
    if header.crypt_method != CRYPT_NONE:
        found.append(
            Reason(
                "encrypted",
                f"The image of {name}, {file}, is encrypted, and only the VM has its key.",
                "Start the VM; its snapshots can be taken and loaded there.",
                name,
            )
        )
    return found, header, table


def _bitmaps(device: Device, header: Header) -> Iterator[Reason]:
    if header.bitmaps:
        yield Reason(
            "bitmap",
            f"{device.device} has {header.bitmaps} dirty bitmaps in its image; no snapshot can be loaded with them"
            " there.",
            f"Remove them: `qemu-img bitmap --remove {printable(device.file, 400)} NAME`; `qemu-img info` shows the"
            " names. The next backup is a full one then.",
            device.device,
        )


def _entry(device: Device, snapshot: Snapshot, table: Table) -> Iterator[Reason]:
    name, file = device.device, printable(device.file, 400)
    count = sum(entry.tag == snapshot.tag for entry in table)
    if not count:
        yield Reason(
            "tag-missing",
            f"The image of {name}, {file}, does not hold the snapshot {snapshot.name}.",
            "Load another snapshot; `snaptree show` says where each one is.",
            name,
        )
    elif count > 1:
        yield Reason(
            "tag-twice",
            f"The image of {name}, {file}, holds {count} snapshots with the tag of {snapshot.name}.",
            "Delete this snapshot, and load another one.",
            name,
        )
    elif strangers(snapshot, table):
        yield Reason(
            "tag-replaced",
            f"{name} holds another snapshot under the tag {printable(snapshot.tag, 255)} of {snapshot.name}: others"
            " have put theirs in its place.",
            "Load another snapshot.",
            name,
        )
    yield from tag_is_id(name, snapshot.tag, table)


def _resized(device: Device, now: int, then: int) -> Reason:
    what = "shrunk to that again, and what is behind its end is lost" if now > then else "that again"
    return Reason(
        "resized",
        f"{device.device} has {now} bytes now and had {then} in the snapshot; it would be {what}.",
        "Load it with --allow-resize if that is right.",
        device.device,
    )
