"""Starting a fork: a second VM that goes on from a snapshot of another.  Not for: what it is afterwards, a VM as any.

The source is only read: its snapshot's pages are linked, its images are looked at through views, and a file in its
folder keeps the snapshot from being deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.opening import open_catalog
from ..catalog.rows import from_record
from ..engine import origins
from ..engine.arrive import Forked
from ..engine.forkdisks import make_overlay, make_view
from ..engine.offline import disks_of
from ..engine.offline_hold import locked
from ..engine.pins import pin_in
from ..model.errors import NotReady, Refused, VMRuns, from_code
from ..model.snapshot import Snapshot
from ..places import forks
from ..places.files import private_directory, read_json
from ..places.places import VMPlace
from ..qemu import commandline, copies, diskargs, fillings
from ..qemu.session import Session
from . import logs, starting
from .care import Supervised
from .exchange import End, Options, Ready
from .supervisor import refuse_command_line, take_lock

if TYPE_CHECKING:
    from ..engine.forkram import RAMImage

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def preload() -> None:
    """Import what a fork from a snapshot in pages needs, so that processes forked from this one have it already.

    No thread is started: OpenBLAS, which numpy brings along, would start some, and is not needed.
    """
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    try:
        from ..engine import forkram, taking  # noqa: F401, PLC0415
        from ..memory import borrow, layout  # noqa: F401, PLC0415
    finally:
        if before is None:
            del os.environ[BLAS_THREADS]
        else:
            os.environ[BLAS_THREADS] = before


@dataclass(frozen=True, slots=True)
class Source:
    """What a fork begins with.

    :param argv: the source's command line, as its user gave it.
    :param values: what stands for the placeholders in it, in the source.
    :param images: the source's image of each device, by device.
    """

    snapshot: Snapshot
    argv: tuple[str, ...]
    cwd: Path
    values: Mapping[str, str | int]
    images: Mapping[str, str]


async def fork(
    source: VMPlace,
    place: VMPlace,
    which: Mapping[str, str],
    *,
    ready: Callable[[Ready], None],
    snapshot: Snapshot | None = None,
) -> End:
    """Start a VM that goes on from a snapshot of ``source``, and look after it until it ends.

    Prerequisites: there is no VM ``place`` yet; the snapshot is whole; the source's command line fits a second VM.
    Effects on success: returns when QEMU has ended.  Nothing of the source is changed, but that the snapshot stays as
    long as the fork does.
    Effects on failure: there is no such VM, and no trace of it in the source.

    :param which: ``name`` or ``id`` of the snapshot.
    :param snapshot: the snapshot, where it is kept for this fork already, and the VM's folder made.
    :raises NoSuchSnapshot, AmbiguousId, Refused, NotReady, QEMUStartFailed: nothing was changed.
    """
    if snapshot is None and place.exists():
        raise VMRuns(f"There is a VM {place.name} already.", "Choose another name for the fork.")
    place.make()
    lock = take_lock(place)
    begun = False
    try:
        origin = await _origin(source, place, which, snapshot)
        supervised = await _start(source, place, origin)
        begun = True
        return await supervised.serve(ready)
    finally:
        if not begun:
            forks.unpin(source, place.name)
            place.remove()
        lock.release()


async def _origin(source: VMPlace, place: VMPlace, which: Mapping[str, str], snapshot: Snapshot | None) -> Source:
    """Keep the snapshot for the fork, and read what is needed of the source.

    :raises SnaptreeError: where there is none such, or the source's command line is not known.
    """
    recorded = await asyncio.to_thread(read_json, source.command) or {}
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
    if snapshot is None and source.state().state == "supervised":
        snapshot = await _ask_for_pin(source, place, which)
    elif snapshot is None:
        snapshot = await asyncio.to_thread(_pin, source, place, which)
    images = {device: disk.file for device, disk in disks_of(source).items()}
    images = {d.device: images.get(d.device, d.file) for d in snapshot.devices}
    return Source(snapshot, words, Path(cwd), fillings.read_values(source), images)


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


async def _start(source: VMPlace, place: VMPlace, origin: Source) -> Supervised:
    """Start QEMU, and bring it to the snapshot.

    Effects on failure: QEMU doesn't run.
    """
    snapshot = origin.snapshot
    umask = logs.set_up(place)
    paged = snapshot.memory == "pages"
    (images, views), ram = await asyncio.gather(
        asyncio.to_thread(_make_disks, place, origin), asyncio.to_thread(_borrow, source, place, snapshot)
    )
    replaced = diskargs.with_disks(origin.argv, images, str(origin.cwd), origin.values)
    if replaced.reasons:
        first = replaced.reasons[0]
        raise NotReady(f"{source.name} cannot be forked: {first.message}", first.remedy, replaced.reasons)
    filled = fillings.fill_for(place, replaced.argv)
    command = commandline.analyse(filled.argv)
    waiting = [] if snapshot.memory == "none" else [*(["-S"] * (not command.paused)), "-incoming", "defer"]
    options = Options(memory="pages" if paged else "auto")
    with contextlib.ExitStack() as files:
        inherited: dict[Path, int] = {}
        if ram is not None:
            from ..engine.forkram import opened  # noqa: PLC0415  numpy

            inherited = files.enter_context(opened(ram.files))
        supervised, memory = await starting.start(
            place,
            [*filled.argv, *waiting],
            origin.cwd,
            foreground=False,
            umask=umask,
            options=options,
            inherit=list(inherited.values()),
        )
    arrival = Forked(snapshot, Path(origin.images[snapshot.vmstate_device]), ram, inherited) if waiting else None
    record = {
        "argv": list(replaced.argv),
        "cwd": str(origin.cwd),
        "memory": memory,
        fillings.MEMBER: filled.values,
        origins.MEMBER: origins.Origin(source.name, snapshot.id, snapshot.name, tuple(views)).to_json(),
    }
    try:
        supervised.notes += filled.notes
        await supervised.begin(record, fresh=True, same_qemu=False, go=not command.paused, arrival=arrival)
    except BaseException:
        await supervised.abandon()
        raise
    return supervised


def _make_disks(place: VMPlace, origin: Source) -> tuple[dict[str, str], list[origins.View]]:
    """Make the fork's images: for each of the source's an overlay on a view of the snapshot.

    :return: the overlay in place of each of the source's images, and the views.
    """
    private_directory(place.disks)
    found, views = {}, []
    for number, device in enumerate(origin.snapshot.devices):
        image = origin.images[device.device]
        if not image.startswith("/"):
            raise Refused(f"{device.device} is {image}, which is no local file and cannot be forked.")
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", device.device)[:64] or "disk"
        view = place.disks / f"{number}-{stem}.view"
        overlay = place.disks / f"{number}-{stem}.qcow2"
        make_overlay(view, overlay, make_view(Path(image), origin.snapshot.tag, view))
        found[image] = str(overlay)
        views.append(origins.View(str(view), image, origin.snapshot.tag))
    return found, views


def _borrow(source: VMPlace, place: VMPlace, snapshot: Snapshot) -> RAMImage | None:
    """Link the snapshot's pages into the fork's store; return how its RAM is made."""
    if snapshot.memory != "pages":
        return None
    from ..engine.forkram import image_of  # noqa: PLC0415  numpy
    from ..memory.borrow import borrow  # noqa: PLC0415
    from ..memory.store import PageStore  # noqa: PLC0415

    theirs = PageStore.open(source.pages, clean=False)
    try:
        borrow(theirs, snapshot.id, place.pages)
    finally:
        theirs.close()
    ours = PageStore.open(place.pages, clean=False)
    try:
        return image_of(ours, snapshot.id)
    finally:
        ours.close()
