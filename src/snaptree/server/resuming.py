"""Starting a stopped VM so that it goes on from a snapshot, RAM and all.  Not for: starting it cold (``run``).

It has ended somehow: by ``stop``, which took a snapshot of its last moment; by a crash of QEMU or of the host.  What
its disks hold then and no snapshot does is kept first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..catalog.catalog import Catalog
from ..engine.arrive import Resumed
from ..engine.offline_hold import locked, opened
from ..engine.offline_verbs import keep_present
from ..model.errors import Refused
from ..model.ids import NIL
from ..model.snapshot import Snapshot
from ..places.files import read_json
from ..places.places import VMPlace
from . import starting, supervisor
from .exchange import End, Options, Ready


async def resume(
    place: VMPlace,
    which: Mapping[str, str],
    *,
    client: str,
    foreground: bool,
    ready: Callable[[Ready], None],
    options: Options = supervisor.DEFAULT,
    eagerly: bool = False,
) -> End:
    """Start QEMU with the stored command line, let the VM go on from a snapshot, and look after it until it ends.

    Prerequisites: the VM is stopped, and was started by us; the snapshot holds RAM.
    Effects on success: as of :func:`.supervisor.run`; the snapshot is current.  Where the disks were not at the current
    snapshot, they are kept as an automatic snapshot of the disks alone.
    Effects on failure: QEMU doesn't run; the disks are kept all the same.

    :param which: ``name`` or ``id`` of the snapshot; empty for the current one.
    :param client: who asks, for history.
    :param eagerly: read all RAM before the guest goes on, where it could be mapped.
    :raises Refused, NoSuchSnapshot, AmbiguousId, VMRuns: nothing was changed.
    :raises NotReady, QEMUStartFailed: where QEMU can't start, or not load.
    """
    recorded = await asyncio.to_thread(read_json, place.command) or {}
    argv, cwd = recorded.get("argv"), recorded.get("cwd")
    if not isinstance(argv, list) or not argv or not isinstance(cwd, str) or "attached" in recorded:
        raise Refused(
            f"How the QEMU of the VM {place.name} was started is not known here.",
            f"Start it as before, and `snaptree attach {place.name}`; or `snaptree run {place.name} -- QEMU ARGS…`.",
        )
    snapshot = await asyncio.to_thread(_choose, place, which)
    kept = await asyncio.to_thread(keep_present, place, f"before going on from {snapshot.name}", client=client)
    wanted, _ = starting.read_memory(place)
    arrival = Resumed(snapshot, client, eagerly=eagerly)

    def say(begun: Ready) -> None:
        words = [f"{place.name} goes on from {snapshot.name}."]
        if arrival.why_read and not eagerly:
            words.append(f"All of its RAM was read first: {arrival.why_read}")
        if kept is not None:
            words.append(f"What its disks held is kept as {kept.name}.")
        ready(replace(begun, notes=(*begun.notes, " ".join(words))))

    return await supervisor.run(
        place,
        [str(word) for word in argv],
        Path(cwd),
        foreground=foreground,
        ready=say,
        options=replace(options, memory="full" if wanted == "full" else "auto"),
        arrival=arrival,
    )


def _choose(place: VMPlace, which: Mapping[str, str]) -> Snapshot:
    """Return the snapshot to go on from.

    :raises Refused: where it holds no RAM, or there is no current one.
    """
    with locked(place), opened(place) as catalog:
        snapshot = catalog.find(name=which.get("name"), id=which.get("id")) if which else _current(place, catalog)
    if snapshot.memory == "none":
        raise Refused(
            f"{snapshot.name} holds disks only, no RAM to go on from.",
            f"Name another: `snaptree resume {place.name} NAME`; or load it and start cold:"
            f" `snaptree load {place.name} {snapshot.name}`, then `snaptree run {place.name} -- QEMU ARGS…`.",
        )
    return snapshot


def _current(place: VMPlace, catalog: Catalog) -> Snapshot:
    """Return the current snapshot; where that is what a resume has kept of the disks, the one that it descends from."""
    current = catalog.current()
    snapshot = catalog.by_id(current.id) if current.id not in ("", NIL) else None
    while snapshot is not None and snapshot.automatic and snapshot.memory == "none":
        snapshot = catalog.by_id(snapshot.parent_id)
    if snapshot is None:
        why = f" {current.why}" if current.why else ""
        raise Refused(
            f"The VM {place.name} has no current snapshot to go on from.{why}",
            f"Name one: `snaptree resume {place.name} NAME`; or start it cold by `snaptree run`.",
        )
    return snapshot
