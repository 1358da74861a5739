"""Making a new, empty qcow2 image over another one.  Not for: its bytes, nor an image that is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..qcow2.overlay import overlay

_BLOCK: Final = 4096
_ZEROS: Final = bytes(_BLOCK)


def write_overlay(path: Path, size: int, backing: str, backing_format: str) -> None:
    """Make the image ``path``, with mode 0600.

    Effects on failure: there is no such file.

    :raises FileExistsError: where there is one already; that stays.
    :raises OSError: where it cannot be written.
    """
    data = overlay(size, backing, backing_format)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            write_sparse(fd, data)
        finally:
            os.close(fd)
    except BaseException:
        path.unlink()
        raise


def write_sparse(fd: int, data: bytes) -> None:
    """Write an image to an empty file; blocks of zeros become holes.

    :raises OSError: where it cannot be written.
    """
    os.ftruncate(fd, len(data))
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        if block != _ZEROS:
            at = 0
            while at < len(block):
                at += os.pwrite(fd, block[at:], start + at)
