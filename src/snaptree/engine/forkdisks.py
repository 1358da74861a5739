"""The disks of a fork: a view of each image's snapshot, and an overlay on it.  Not for: whose disks they are.

No process and no lock stands behind them, and nothing is ever written to the source, which may run on.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import ImageError
from ..model.names import printable
from ..qcow2.errors import UnsupportedImage
from ..qcow2.image import Image
from ..qcow2.view import FORMAT, disk_size, view, view_backing
from ..qemu.overlay import write_overlay, write_sparse


@dataclass(frozen=True, slots=True)
class View:
    """One snapshot of an image, as QEMU can be made to see it.

    :param content: of the file through which it does.
    :param size: the disk's in bytes.
    """

    content: bytes
    size: int


def make_view(source: Path, tag: str, path: Path) -> int:
    """Make the file through which QEMU sees one snapshot of an image, and return the disk's size in bytes then.

    Prerequisites: as of :func:`look_at`.
    Effects on success, on failure: as of :func:`write_view`.

    :raises UnsupportedImage, ImageError: as those two.
    """
    found = look_at(source, tag)
    write_view(found, path)
    return found.size


def look_at(source: Path, tag: str) -> View:
    """Return how QEMU can see one snapshot of an image.

    Prerequisites: the snapshot is not deleted as long as the view is needed; the source stays where it is.  A QEMU may
    have it open and write, and other snapshots may come, go and be loaded.

    :param source: where it is named relatively, the view has its absolute path, links not followed.
    :raises UnsupportedImage: where QEMU cannot see the snapshot so: the image is encrypted, or a path is no UTF-8, or
        names do not fit into the image's first cluster.
    :raises ImageError: where the source has no such snapshot, or more than one, or cannot be read.
    """
    source = source.absolute()
    with Image.open(source) as image:
        found = [snapshot for snapshot in image.snapshots() if snapshot.tag == tag]
        if len(found) != 1:
            raise ImageError(
                f"{printable(str(source), 400)} has {len(found)} snapshots of the tag {printable(tag, 255)};"
                " it must be one."
            )
        block_device, file_size = image.file_kind()
        driver = "host_device" if block_device else "file"
        try:
            data = view(image.header, found[0], str(source), file_size, driver=driver, directory=str(source.parent))
        except ImageError as error:
            named = f"{printable(str(source), 400)}, snapshot {printable(tag, 255)}: {error.message}"
            raise type(error)(named, error.remedy) from error
        return View(data, disk_size(image.header, found[0]))


def write_view(view: View, path: Path) -> None:
    """Write a view's file.

    Effects on success: ``path`` is there with mode 0600, whole, and readable as long as the source is.  It is not
    flushed to the disk, since it can be made anew at any time, also while it is in use: make it before each start.
    Effects on failure: none.

    :raises ImageError: where it cannot be written.
    """
    try:
        _replace(path, view.content)
    except OSError as error:
        raise ImageError(f"The file {printable(str(path), 400)} cannot be written: {error.strerror}.") from error


def make_overlay(view: Path, overlay: Path, size: int) -> None:
    """Make an empty image over a view.

    Effects on success: ``overlay`` is there with mode 0600.  A QEMU opens it by its name alone.
    Effects on failure: none; an image that is there already stays.

    :param view: its path is written into the overlay, made absolute, and must stay.
    :param size: as make_view returned it.
    :raises UnsupportedImage: where the view's path is no UTF-8, or too long.
    :raises ImageError: where ``overlay`` is there already, or cannot be written.
    """
    try:
        write_overlay(overlay, size, view_backing(str(view.absolute())), FORMAT)
    except ValueError as error:
        raise UnsupportedImage(f"An overlay on {printable(str(view), 400)} is impossible: {error}.") from error
    except OSError as error:
        raise ImageError(f"The image {printable(str(overlay), 400)} cannot be made: {error.strerror}.") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whole."""
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            write_sparse(fd, data)
        finally:
            os.close(fd)
        stage.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            stage.unlink()
        raise
