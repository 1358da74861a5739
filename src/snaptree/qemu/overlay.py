"""Making a new, empty qcow2 image over another one.  Not for: its bytes, nor an image that is there."""

from __future__ import annotations

import os
from pathlib import Path

from ..qcow2.overlay import overlay


def write_overlay(path: Path, size: int, backing: str, backing_format: str) -> None:
    """Make the image ``path``, with mode 0600.

    Effects on failure: there is no such file.

    :raises FileExistsError: where there is one already; that stays.
    :raises OSError: where it cannot be written.
    """
    data = overlay(size, backing, backing_format)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb", buffering=0) as file:
            file.write(data)
    except BaseException:
        path.unlink()
        raise
