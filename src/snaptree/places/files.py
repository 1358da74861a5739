"""Durable small files: whole or not there, whatever dies.  Not for: what the catalog and the lineage hold."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..model.errors import SnaptreeError

SYNCING_MAX = 8


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; a rename is lost in a crash without it (fsync(2))."""
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_all(files: Iterable[Path], directories: Iterable[Path]) -> None:
    """Make files and the names in directories durable, all at once: a busy disk lets each wait as long as all of them.

    Files that are not there are left out.
    """

    def sync(path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            sync_file(path)

    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  takes 10 ms

    with ThreadPoolExecutor(SYNCING_MAX, "snaptree-sync") as pool:
        begun = [*(pool.submit(sync, path) for path in files), *(pool.submit(sync_directory, d) for d in directories)]
        for one in begun:
            one.result()


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at an offset, in one call.

    :raises OSError: where that fails; ENOSPC where only a part of it was written.
    """
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write ``value`` to ``path`` with mode 0600; a reader sees the old content or the new, whole.

    :param durable: after a crash of the host too.  Without it the file may then be old, or unreadable, or missing.
    """
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(value, file, indent=1, ensure_ascii=True)
            file.write("\n")
            file.flush()
            if durable:
                os.fsync(file.fileno())
        stage.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            stage.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def read_json(path: Path) -> dict[str, object] | None:
    """Return the object in ``path``, or ``None`` where there is no such file.

    :raises SnaptreeError: where it can't be read or holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SnaptreeError(f"{path} cannot be read: {error}.", "Remove it, or put it back from a backup.") from error
    if not isinstance(value, dict):
        raise SnaptreeError(f"{path} holds no JSON object.", "Remove it, or put it back from a backup.")
    return value


def private_directory(path: Path) -> None:
    """Make ``path`` a directory that only its owner can use (0700), with its parents.

    :raises SnaptreeError: where it is a symbolic link, no directory, or somebody else's.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise SnaptreeError(
            f"The directory {path} cannot be made: {error.strerror}.", "Choose another SNAPTREE_HOME."
        ) from error
    if not stat.S_ISDIR(info.st_mode):
        raise SnaptreeError(f"{path} is no directory.", "Move it away.")
    if info.st_uid != os.geteuid():
        raise SnaptreeError(
            f"The directory {path} belongs to the user with the uid {info.st_uid}, not to you.",
            "Set SNAPTREE_HOME and XDG_RUNTIME_DIR to directories of your own.",
        )
    if info.st_mode & 0o077:
        path.chmod(0o700)
