"""Changing the images of a VM that doesn't run, through qemu-img.  Not for: images that a QEMU has open.

The caller holds the images by locks of our own, so qemu-img is told to take none; and it inherits ours, so that they
outlive us where we are killed and qemu-img still writes.

qemu-img makes a second snapshot of a tag that is there, deletes by tag, and loads by QEMU's id before it looks for the
tag.  So the table of snapshots is read before and after each step, and nothing is done where the two could differ.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence

from ..model.errors import ImageError, Refused
from ..model.names import printable
from ..qcow2.image import Image, list_snapshots
from ..qcow2.table import ImageSnapshot
from .imagelocks import HeldImages

_CREATE, _APPLY, _DELETE = "-c", "-a", "-d"
_VERBS = {_CREATE: "taken", _APPLY: "loaded", _DELETE: "deleted"}


def create_snapshot(held: HeldImages, file: str, tag: str, *, inherit: Sequence[int] = ()) -> ImageSnapshot:
    """Take a snapshot of an image, and return it.

    :param inherit: further descriptors that qemu-img shall keep open until it has ended.
    :raises Refused: where the image has one of this tag already; nothing was changed.
    :raises ImageError: where qemu-img can't, with its words.
    """
    before = list_snapshots(file)
    if any(entry.tag == tag for entry in before):
        raise Refused(f"The image {printable(file, 400)} holds a snapshot {printable(tag, 255)} already.")
    _run(held, file, _CREATE, tag, inherit)
    new = [entry for entry in list_snapshots(file) if entry.tag == tag]
    if len(new) != 1:
        raise _unlike(file, _CREATE, tag)
    return new[0]


def apply_snapshot(held: HeldImages, file: str, tag: str, *, inherit: Sequence[int] = ()) -> None:
    """Bring an image back to its snapshot of this tag.

    :raises Refused: where that could be another one (see :func:`why_not_by_tag`); nothing was changed.
    :raises ImageError: where qemu-img can't, with its words, or the image is not at the snapshot afterwards.
    """
    why = why_not_by_tag(list_snapshots(file), tag)
    if why:
        raise Refused(f"The image {printable(file, 400)} {why}.")
    _run(held, file, _APPLY, tag, inherit)
    with Image.open(file) as image:
        if not any(image.is_at(entry) for entry in image.snapshots() if entry.tag == tag):
            raise _unlike(file, _APPLY, tag)


def delete_snapshot(held: HeldImages, file: str, tag: str, *, inherit: Sequence[int] = ()) -> None:
    """Delete every snapshot of this tag from an image; none is fine.

    :raises ImageError: where qemu-img can't, with its words.
    """
    before = list_snapshots(file)
    while any(entry.tag == tag for entry in before):
        _run(held, file, _DELETE, tag, inherit)
        after = list_snapshots(file)
        gone = Counter(_identity(entry) for entry in before)
        gone.subtract(_identity(entry) for entry in after)
        if [name for (_, name, _), count in gone.items() if count] != [tag]:
            raise _unlike(file, _DELETE, tag)
        before = after


def why_not_by_tag(table: Sequence[ImageSnapshot], tag: str) -> str:
    """Say why QEMU, asked for the snapshot ``tag`` of an image, would not surely load that; empty where it would.

    It looks for a snapshot whose id is ``tag`` first (``find_snapshot_by_id_or_name`` in QEMU's block/qcow2-snapshot.c)
    and then takes the first of that tag.
    """
    count = sum(entry.tag == tag for entry in table)
    other = next((entry for entry in table if entry.qemu_id == tag and entry.tag != tag), None)
    if not count:
        return f"does not hold the snapshot {printable(tag, 255)}"
    if count > 1:
        return f"holds {count} snapshots with the tag {printable(tag, 255)}"
    if other is not None:
        return (
            f"holds the snapshot {printable(other.tag, 255)} with the id {printable(tag)}, which QEMU would load for"
            f" the tag {printable(tag)}"
        )
    return ""


def _identity(entry: ImageSnapshot) -> tuple[str, str, int]:
    return entry.qemu_id, entry.tag, entry.date_ns


def _run(held: HeldImages, file: str, flag: str, tag: str, inherit: Sequence[int]) -> None:
    if file not in held.fds:
        raise ValueError(f"{file} is not held")
    options = f"driver=qcow2,file.driver=file,file.locking=off,file.filename={file.replace(',', ',,')}"
    with tempfile.TemporaryFile() as said:
        try:
            # In a session of its own: a Ctrl-C must not end it in the middle.
            process = subprocess.Popen(
                ["qemu-img", "snapshot", "--image-opts", flag, tag, options],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=(*held.fds.values(), *inherit),
            )
        except OSError as error:
            raise ImageError(
                f"qemu-img, which changes the images of a VM that does not run, cannot be run: {error.strerror}.",
                "Install qemu-utils, or put it on PATH.",
            ) from error
        status = process.wait()
        if status:
            said.seek(0)
            words = said.read().decode("utf-8", "replace").strip().removeprefix("qemu-img: ")
            raise ImageError(
                f"A snapshot cannot be {_VERBS[flag]} in {printable(file, 400)}: {printable(words, 300)}.",
                "Mend the image, or what is said of it, and try again.",
            )
    held.sync(file)


def _unlike(file: str, flag: str, tag: str) -> ImageError:
    return ImageError(
        f"qemu-img says that the snapshot {printable(tag, 255)} was {_VERBS[flag]} in {printable(file, 400)},"
        " and the image says otherwise.",
        "Check the image with `qemu-img check`.",
    )
