"""Which forks stand on a VM's snapshots: a file for each fork in the source's folder.  Not for: starting a fork.

::

    vms/SOURCE/forks/FORK    {"snapshot": ID}

It is written before anything of the fork is made, and removed after all of it is gone.  Where the fork's own folder is
missing the fork is gone too, or never came to be.
"""

from __future__ import annotations

import contextlib
import os

from ..model.errors import BadName, SnaptreeError
from ..model.names import check_vm_name
from .files import private_directory, read_json, write_json
from .places import VMPlace


def pin(source: VMPlace, fork: str, snapshot_id: str) -> None:
    """Note that a fork stands on a snapshot, durably.

    Prerequisites: nothing deletes snapshots of the source meanwhile; the fork's folder is there.
    """
    private_directory(source.forks)
    write_json(source.forks / fork, {"snapshot": snapshot_id})


def unpin(source: VMPlace, fork: str) -> None:
    """Note that a fork is gone."""
    with contextlib.suppress(FileNotFoundError):
        (source.forks / fork).unlink()


def standing(source: VMPlace) -> dict[str, str]:
    """Return the id of the snapshot that each fork stands on, by the fork's name.

    :raises SnaptreeError: where that can't be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(source.forks))
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        with contextlib.suppress(BadName):
            check_vm_name(name)
            if (source.directory.parent / name).is_dir() and (value := read_json(source.forks / name)) is not None:
                found[name] = str(value.get("snapshot", ""))
    return found


def forks_of(source: VMPlace, snapshot_id: str) -> list[str]:
    """Return the names of the forks that stand on a snapshot; none where that can't be read."""
    try:
        return [name for name, id in standing(source).items() if id == snapshot_id]
    except SnaptreeError:
        return []
