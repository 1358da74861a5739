"""Which forks stand on a VM's snapshots: a file for each fork in the source's folder.  Not for: starting a fork.

::

    vms/SOURCE/forks/FORK    {"snapshot": ID}

It is written before anything of the fork is made, and removed after all of it is gone.  Where the fork's own folder is
missing the fork is gone too, or never came to be.  The fork's ``command.json`` says the source (``origin``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..model.errors import BadName, SnaptreeError
from ..model.names import check_vm_name
from .files import private_directory, read_json, sync_all, write_json
from .places import VMPlace

ORIGIN: Final = "origin"
"""The member of ``command.json``."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The snapshot that a fork began with.

    :param vm: the source; ``id`` and ``name`` are the snapshot's, the name as it was then.
    """

    vm: str
    id: str
    name: str


def beginning(place: VMPlace) -> Beginning | None:
    """Return what a VM was forked from; ``None`` where it was not, or that can't be read."""
    try:
        value = (read_json(place.command) or {}).get(ORIGIN)
    except SnaptreeError:
        return None
    if not isinstance(value, dict):
        return None
    return Beginning(*(str(value.get(key, "")) for key in ("vm", "id", "name")))


def pin(source: VMPlace, fork: str, snapshot_id: str, *, durable: bool = True) -> None:
    """Note that a fork stands on a snapshot.

    Prerequisites: nothing deletes snapshots of the source meanwhile; the fork's folder is there.

    :param durable: flush it to the disk; else :func:`flush` does, before anybody is told of the fork.
    """
    private_directory(source.forks)
    write_json(source.forks / fork, {"snapshot": snapshot_id}, durable=durable)


def flush(source: VMPlace, forks: Iterable[str]) -> None:
    """Flush what was noted of forks to the disk; those that are gone again are left out."""
    sync_all([source.forks / fork for fork in forks], [source.forks])


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


def by_snapshot(source: VMPlace) -> dict[str, list[str]]:
    """Return the names of the forks that stand on each snapshot, by its id; none where that can't be read."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(SnaptreeError):
        for name, id in standing(source).items():
            found.setdefault(id, []).append(name)
    return found
