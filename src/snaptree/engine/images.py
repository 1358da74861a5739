"""What the engine reads of disk images directly, without QEMU.  Not for: changing them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from ..model.errors import ImageError
from ..qcow2.image import Image, list_snapshots
from ..qcow2.table import ImageSnapshot


def flush(files: Iterable[str]) -> None:
    """Write back what the host's page cache holds of these images, so that QEMU's own flush finds little to do."""
    for file in files:
        with contextlib.suppress(OSError):
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)


def table(file: str) -> tuple[ImageSnapshot, ...] | None:
    """Return the snapshots in an image; ``None`` where it cannot be read as qcow2 from here."""
    try:
        return list_snapshots(file) if file.startswith("/") else None
    except ImageError:
        return None


def at_snapshot(file: str, tag: str) -> bool | None:
    """Say whether the disk's content is, at this moment, exactly that of the snapshot ``tag``.

    QEMU reverts an image by writing the snapshot's L1 table over the active one, synchronously
    (``qcow2_snapshot_goto``), and every later write to a cluster that the snapshot has changes the active one.

    :return: ``None`` where the image cannot be read from here, or has no such snapshot.
    """
    try:
        with Image.open(file) as image:
            for snapshot in image.snapshots():
                if snapshot.tag == tag:
                    return image.is_at(snapshot)
    except (ImageError, OSError):
        pass
    return None
