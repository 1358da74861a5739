"""What the engine reads of disk images directly, without QEMU.  Not for: changing them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..model.errors import ImageError
from ..qcow2.image import Image
from ..qcow2.table import ImageSnapshot, SnapshotTable
from ..qcow2.vmstate import VMStateHead
from ..qemu.blockdevs import BlockDevice
from ..qemu.blockgraph import QCOW2


def flush(files: Iterable[str]) -> None:
    """Write back what the host's page cache holds of these images, so that QEMU's own flush finds little to do."""
    for file in files:
        with contextlib.suppress(OSError):
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)


_KNOWN_MAX = 64
_known: dict[str, tuple[Image, SnapshotTable]] = {}
"""What was parsed last, by file: with 1,000 snapshots parsing the table costs more than all else of a create."""


def _open(file: str) -> Image:
    """Open an image; of its header only what has changed is parsed."""
    known = _known.get(file)
    return Image.open(file, known=known[0] if known else None)


def _snapshots(image: Image) -> tuple[ImageSnapshot, ...]:
    """Return an image's snapshots; of the table only what has changed is parsed."""
    known = _known.get(image.path)
    found = image.snapshot_table(known[1] if known else None)
    if len(_known) >= _KNOWN_MAX:
        _known.clear()
    _known[image.path] = (image, found)
    return found.snapshots


def _find(image: Image, tag: str) -> ImageSnapshot | None:
    return next((snapshot for snapshot in _snapshots(image) if snapshot.tag == tag), None)


def table(file: str) -> tuple[ImageSnapshot, ...] | None:
    """Return the snapshots in an image; ``None`` where it cannot be read as qcow2 from here."""
    if not file.startswith("/"):
        return None
    try:
        with _open(file) as image:
            return _snapshots(image)
    except ImageError:
        return None


def tables(devices: Iterable[BlockDevice]) -> dict[str, tuple[ImageSnapshot, ...]] | None:
    """Return the snapshots in every device's image, by device; ``None`` where one cannot be read from here."""
    found: dict[str, tuple[ImageSnapshot, ...]] = {}
    for device in devices:
        here = table(device.file) if device.driver == QCOW2 else ()
        if here is None:
            return None
        found[device.device] = here
    return found


def vm_state_head(file: str, tag: str) -> VMStateHead | None:
    """Return what the head of a snapshot's VM state says; ``None`` where it cannot be read from here."""
    try:
        with _open(file) as image:
            snapshot = _find(image, tag)
            return image.vm_state_head(snapshot) if snapshot is not None else None
    except (ImageError, OSError):
        return None


def identities(devices: Iterable[BlockDevice]) -> dict[str, tuple[int, int]]:
    """Return which file each image's name leads to now: device and inode, (0, 0) where to none."""
    found = {}
    for device in devices:
        try:
            status = Path(device.file).stat()
            found[device.device] = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            found[device.device] = (0, 0)
    return found


def at_snapshot(file: str, tag: str) -> bool | None:
    """Say whether the disk's content is, at this moment, exactly that of the snapshot ``tag``.

    QEMU reverts an image by writing the snapshot's L1 table over the active one, synchronously
    (``qcow2_snapshot_goto``), and every later write to a cluster that the snapshot has changes the active one.

    :return: ``None`` where the image cannot be read from here, or has no such snapshot.
    """
    try:
        with _open(file) as image:
            snapshot = _find(image, tag)
            return image.is_at(snapshot) if snapshot is not None else None
    except (ImageError, OSError):
        return None


def disks_at(files: Mapping[str, str], tag: str) -> dict[str, bool | None]:
    """Say for each device whether its content is that of the snapshot, as :func:`at_snapshot`.

    :param files: the image of each.
    """
    return {device: at_snapshot(file, tag) for device, file in files.items()}
