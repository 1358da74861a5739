"""How much room is left on a file system, and saying that it is too little.  Not for: making any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..model.names import printable


@dataclass(frozen=True, slots=True)
class Room:
    """A file system.

    :param mount: where it is mounted.
    :param free_bytes: how much we may still write there.
    """

    device: int
    mount: str
    total_bytes: int
    free_bytes: int


def room_at(path: str | Path) -> Room | None:
    """Return the file system that a file is on, or would be; ``None`` where that can't be told."""
    there = Path(path).absolute()
    try:
        while not there.exists():
            there = there.parent
        there = there.resolve()
        system, device = os.statvfs(there), there.stat().st_dev
        while there != there.parent and not there.is_mount():
            there = there.parent
    except (OSError, ValueError):
        return None
    return Room(device, str(there), system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize)


def shortage(needs: Iterable[tuple[str | Path, int]], *, surely: bool = False) -> str:
    """Say which file systems have too little room, how much there is, and how much is needed; empty where none has.

    :param needs: files, and how many bytes more each of them needs; 0 where that is not known.
    :param surely: one of them is known to be full: where none has too little by these figures, all are named.
    """
    rooms: dict[int, tuple[Room, list[str], int]] = {}
    for path, needed_bytes in needs:
        room = room_at(path)
        if room is not None:
            _, files, before = rooms.get(room.device, (room, [], 0))
            rooms[room.device] = room, [*files, printable(str(path), 400)], before + needed_bytes
    found = [_sentence(*room) for room in rooms.values() if room[0].free_bytes < max(room[2], 1)]
    return " ".join(found or [_sentence(*room) for room in rooms.values() if surely])


def _sentence(room: Room, files: list[str], needed_bytes: int) -> str:
    needed = f", and about {mib(needed_bytes)} are needed" if needed_bytes else ""
    return (
        f"The file system of {' and '.join(files)} (mounted at {printable(room.mount, 400)}) is full:"
        f" {mib(room.free_bytes)} of {mib(room.total_bytes)} are free{needed}."
    )


def mib(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 2**20:.1f} MiB"
