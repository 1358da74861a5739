"""Starting a fork: a second VM that goes on from a snapshot of another.  Not for: what it is afterwards, a VM as any.

The source is only read: its snapshot's pages are linked, its images are looked at through views, and a file in its
folder keeps the snapshot from being deleted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.opening import open_catalog
from ..catalog.rows import from_record
from ..engine.forkdisks import look_at
from ..engine.offline import disks_of
from ..engine.offline_hold import locked
from ..engine.pins import pin_in
from ..model.errors import NotReady, Refused, VMRuns, from_code
from ..model.snapshot import Snapshot
from ..places import forks
from ..places.files import read_json
from ..places.places import VMPlace
from ..qemu import copies, fillings
from ..qemu.session import Session
from . import forkstart
from .exchange import End, Ready
from .forkstart import Lent, Source
from .supervisor import refuse_command_line, take_lock

if TYPE_CHECKING:
    from ..memory.store import PageStore

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def preload() -> None:
    """Import what a fork from a snapshot in pages needs, so that processes forked from this one have it already.

    No thread is started: OpenBLAS, which numpy brings along, would start some, and is not needed.
    """
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    try:
        import numpy.ma  # noqa: F401, PLC0415  numpy's own functions load it when they are first used

        from ..engine import forkram, taking  # noqa: F401, PLC0415
        from ..memory import borrow, layout  # noqa: F401, PLC0415
    finally:
        if before is None:
            del os.environ[BLAS_THREADS]
        else:
            os.environ[BLAS_THREADS] = before


async def fork(
    source: VMPlace,
    place: VMPlace,
    which: Mapping[str, str],
    *,
    ready: Callable[[Ready], None],
    origin: Source | None = None,
) -> End:
    """Start a VM that goes on from a snapshot of ``source``, and look after it until it ends.

    Prerequisites: there is no VM ``place`` yet; the snapshot is whole; the source's command line fits a second VM.
    Effects on success: returns when QEMU has ended.  Nothing of the source is changed, but that the snapshot stays as
    long as the fork does.
    Effects on failure: there is no such VM, and no trace of it in the source.

    :param which: ``name`` or ``id`` of the snapshot.
    :param origin: what :func:`look` said, where the snapshot is kept for this fork already, and the VM's folder made.
    :raises NoSuchSnapshot, AmbiguousId, Refused, NotReady, QEMUStartFailed: nothing was changed.
    """
    if origin is None:
        if place.exists():
            raise VMRuns(f"There is a VM {place.name} already.", "Choose another name for the fork.")
        place.make()
    lock = take_lock(place)
    begun = False
    try:
        if origin is None:
            argv, cwd = await asyncio.to_thread(command_line, source)
            if source.state().state == "supervised":
                snapshot = await _ask_for_pin(source, place, which)
            else:
                snapshot = await asyncio.to_thread(_pin, source, place, which)
            origin = await asyncio.to_thread(look, source, snapshot, argv, cwd)
        supervised = await forkstart.start(source.name, place, origin)
        begun = True
        return await supervised.serve(ready)
    finally:
        if not begun:
            forks.unpin(source, place.name)
            place.remove()
        lock.release()


def command_line(source: VMPlace) -> tuple[tuple[str, ...], Path]:
    """Return a VM's command line as its user gave it, and its working directory.

    :raises Refused, NotReady: where a second VM cannot have it, or it is not known.
    """
    recorded = read_json(source.command) or {}
    argv, cwd = recorded.get("argv"), recorded.get("cwd")
    if not isinstance(argv, list) or not argv or not isinstance(cwd, str):
        raise Refused(
            f"The command line of the VM {source.name} is not known.", "Start it by `snaptree run`, and fork it then."
        )
    words = tuple(str(word) for word in argv)
    found = copies.collisions(words)
    if found.refusals:
        first = found.refusals[0]
        raise NotReady(f"{source.name} cannot be forked: {first.message}", first.remedy, found.refusals)
    refuse_command_line(words, detached=True)
    return words, Path(cwd)


def look(
    source: VMPlace, snapshot: Snapshot, argv: tuple[str, ...], cwd: Path, *, store: PageStore | None = None
) -> Source:
    """Read all that is needed of the source for forks of a snapshot, which is kept for them.

    :param argv: as :func:`command_line` returned it, with ``cwd``.
    :param store: the source's, where it is open.
    :raises SnaptreeError: where it can't be forked.
    """
    known = {device: disk.file for device, disk in disks_of(source).items()}
    images = {d.device: known.get(d.device, d.file) for d in snapshot.devices}
    for device, image in images.items():
        if not image.startswith("/"):
            raise Refused(f"{device} is {image}, which is no local file and cannot be forked.")
    views = {device: look_at(Path(image), snapshot.tag) for device, image in images.items()}
    ram = _lend(source, snapshot.id, store) if snapshot.memory == "pages" else None
    return Source(snapshot, argv, cwd, fillings.read_values(source), images, views, ram)


def _lend(source: VMPlace, id: str, store: PageStore | None) -> Lent:
    from ..memory.store import PageStore  # noqa: PLC0415  numpy

    if store is not None:
        return _remembered(store, id)
    opened = PageStore.open(source.pages, clean=False)
    try:
        return _lent_by(opened, id)
    finally:
        opened.close()


def _lent_by(store: PageStore, id: str) -> Lent:
    from ..engine.forkram import image_of  # noqa: PLC0415  numpy
    from ..memory.borrow import lend  # noqa: PLC0415

    return Lent(lend(store, id), image_of(store, id))


# It stays true as long as the snapshot is there, and mostly one snapshot is forked again and again.
_remembered = lru_cache(maxsize=1)(_lent_by)


async def _ask_for_pin(source: VMPlace, place: VMPlace, which: Mapping[str, str]) -> Snapshot:
    session = await Session.connect(f"unix:{source.qmp_socket}", lambda event: None)
    try:
        reply = await session.pass_on({"execute": "snapshot-pin", "arguments": {**which, "fork": place.name}})
    finally:
        await session.close()
    if "error" in reply:
        error: Mapping[str, Any] = reply["error"]
        raise from_code(
            str(error.get("code", "failed")), str(error.get("message", error["desc"])), error.get("remedy", "")
        )
    return from_record(reply["return"])


def _pin(source: VMPlace, place: VMPlace, which: Mapping[str, str]) -> Snapshot:
    with locked(source):
        catalog = open_catalog(source)
        try:
            return pin_in(catalog, source, place.name, name=which.get("name"), id=which.get("id"))
        finally:
            catalog.close()
