"""Changing the images of a VM that doesn't run, through qemu-img.  Not for: images that a QEMU has open.

qemu-img takes QEMU's own locks on the image, so one that is in use is refused.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..model.errors import ImageError, Refused
from ..model.names import printable

_LOCKS_START, _LOCKS_LENGTH = 100, 200
"""Whoever has an image open holds locks on bytes of it in this range (``RAW_LOCK_PERM_BASE`` in QEMU's block code)."""
_FLOCK = "hhqqi4x"
"""``struct flock`` of fcntl(2) on 64-bit Linux: type, whence, start, length, pid."""


def check_free(files: Iterable[str]) -> None:
    """Make sure that nobody has any of these images open, so that not only some of them can be changed.

    :raises Refused: where somebody has.
    """
    for file in files:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(f"The image {printable(file)} cannot be opened: {error.strerror}.") from error
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_START, _LOCKS_LENGTH, 0)
            kind = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
        finally:
            os.close(fd)
        if kind != fcntl.F_UNLCK:
            raise Refused(
                f"The image {printable(file)} is in use by another process.",
                "End what uses the image, and try again.",
            )


def delete_snapshot(file: str, tag: str) -> None:
    """Delete the snapshot of this tag from an image.

    A tag of ours is never taken for one of QEMU's ids: it holds a UUID.

    :raises ImageError: where qemu-img can't, with its words.
    """
    image = str(Path(file).absolute())
    try:
        done = subprocess.run(["qemu-img", "snapshot", "-d", tag, image], capture_output=True, check=False)
    except OSError as error:
        raise ImageError(f"qemu-img cannot be run: {error.strerror}.", "Install qemu-utils.") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().removeprefix("qemu-img: ")
        raise ImageError(
            f"A snapshot cannot be deleted from {printable(file)}: {printable(words, 300)}.",
            "End what uses the image, and try again.",
        )
