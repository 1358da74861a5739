"""Changing the images of a VM that doesn't run, through qemu-img.  Not for: images that a QEMU has open.

qemu-img takes QEMU's own locks on the image, so one that is in use is refused.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..model.errors import ImageError
from ..model.names import printable


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
