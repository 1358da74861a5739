"""Bringing a fork's QEMU to its snapshot, in its own supervisor.  Not for: what is read of the source (``forking``).

QEMU is started as early as can be.  What else a VM needs is made while QEMU starts, which takes longer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.catalog import Catalog
from ..catalog.opening import files_of as catalog_files
from ..catalog.opening import open_catalog
from ..engine import forked, origins
from ..engine.forkdisks import View, make_overlay, write_view
from ..model.errors import NotReady
from ..model.snapshot import Device, Snapshot
from ..places.files import private_directory, sync_all, write_json
from ..places.places import VMPlace
from ..qemu import commandline, diskargs, fillings, hostmemory, ramfiles
from . import logs, starting
from .care import Supervised
from .exchange import Options

if TYPE_CHECKING:
    from ..engine.forkram import RAMImage
    from ..memory.borrow import Loan
    from ..qemu.rambackend import RAMPlan


@dataclass(frozen=True, slots=True)
class Source:
    """What a fork begins with; the same for all forks of a snapshot.

    :param argv: the source's command line, as its user gave it.
    :param values: what stands for the placeholders in it, in the source.
    :param images: the source's image of each device, by device.
    :param views: the snapshot in each, by device.
    :param ram: its pages; ``None`` where it keeps RAM otherwise, or none.
    """

    snapshot: Snapshot
    argv: tuple[str, ...]
    cwd: Path
    values: Mapping[str, str | int]
    images: Mapping[str, str]
    views: Mapping[str, View]
    ram: Lent | None


@dataclass(frozen=True, slots=True)
class Lent:
    """A snapshot's pages: what a fork's store needs to have them, and how RAM is made of them."""

    loan: Loan
    image: RAMImage


@dataclass(frozen=True, slots=True)
class _Made:
    """A fork that needs nothing more but QEMU.

    :param argv: its command line.
    :param record: what ``command.json`` shall say, but for memory.
    :param devices: its disks.
    :param go: the guest shall run.
    :param waits: QEMU waits for a VM state.
    """

    argv: tuple[str, ...]
    record: dict[str, Any]
    devices: tuple[Device, ...]
    go: bool
    waits: bool
    notes: tuple[str, ...]


async def start(source: str, place: VMPlace, origin: Source) -> Supervised:
    """Start QEMU, and bring it to the snapshot.

    Prerequisites: the lock of the fork is ours, and its folder is made.
    Effects on failure: QEMU doesn't run.

    :param source: the name of the VM that is forked.
    :raises SnaptreeError: where that can't be.
    """
    umask = logs.be_private()
    made = _make(source, place, origin)
    if origin.ram is not None:
        supervised = await _from_pages(place, origin, origin.ram, made, umask)
    else:
        supervised = await _otherwise(place, origin, made, umask)
    supervised.notes += made.notes
    return supervised


def _make(source: str, place: VMPlace, origin: Source) -> _Made:
    """Make the fork's images, and its command line."""
    snapshot = origin.snapshot
    images, views = _make_disks(place, origin)
    replaced = diskargs.with_disks(origin.argv, images, str(origin.cwd), origin.values)
    if replaced.reasons:
        first = replaced.reasons[0]
        raise NotReady(f"{source} cannot be forked: {first.message}", first.remedy, replaced.reasons)
    filled = fillings.fill_for(place, replaced.argv, durable=False)
    paused = commandline.analyse(filled.argv).paused
    waits = snapshot.memory != "none"
    devices = tuple(
        Device(d.device, d.node, images[origin.images[d.device]], origin.views[d.device].size) for d in snapshot.devices
    )
    record = {
        "argv": list(replaced.argv),
        "cwd": str(origin.cwd),
        fillings.MEMBER: filled.values,
        origins.MEMBER: origins.Origin(source, snapshot.id, snapshot.name, tuple(views)).to_json(),
    }
    waiting = [*([] if paused else ["-S"]), "-incoming", "defer"] if waits else []
    return _Made((*filled.argv, *waiting), record, devices, not paused, waits, filled.notes)


def _make_disks(place: VMPlace, origin: Source) -> tuple[dict[str, str], list[origins.View]]:
    """Make the fork's images: for each of the source's an overlay on a view of the snapshot.

    :return: the overlay in place of each of the source's images, and the views.
    """
    private_directory(place.disks)
    found, views = {}, []
    for number, device in enumerate(origin.snapshot.devices):
        image, view = origin.images[device.device], origin.views[device.device]
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", device.device)[:64] or "disk"
        path = place.disks / f"{number}-{stem}.view"
        overlay = place.disks / f"{number}-{stem}.qcow2"
        write_view(view, path)
        make_overlay(path, overlay, view.size)
        found[image] = str(overlay)
        views.append(origins.View(str(path), image, origin.snapshot.tag))
    return found, views


async def _from_pages(place: VMPlace, origin: Source, lent: Lent, made: _Made, umask: int) -> Supervised:
    """Start QEMU for a snapshot whose RAM is in pages: it is mapped, and what QEMU reads itself takes milliseconds.

    Effects on failure: QEMU doesn't run, and nothing more is written.
    """
    from ..engine.forkram import opened  # noqa: PLC0415  numpy

    options = Options(memory="pages")
    plan = starting.plan_ram(place, made.argv, origin.cwd, options)
    starting.refuse_full(place, plan)
    with opened(lent.image.files) as inherited:
        supervised = starting.launch_qemu(
            place,
            plan,
            origin.cwd,
            foreground=False,
            umask=umask,
            options=options,
            inherit=list(inherited.values()),
        )
    memory = starting.memory_record(options, plan)
    making = asyncio.create_task(asyncio.to_thread(_make_rest, place, lent, made, memory, plan))
    flushing = asyncio.create_task(_flush_after(making, place, lent))
    seen: list[Awaitable[forked.Seen | None]] = []

    def greeted() -> None:
        assert supervised.process is not None
        seen.append(asyncio.get_running_loop().run_in_executor(None, forked.see, supervised.process.pid))

    try:
        logs.set_up(place)
        supervised.memory_wanted = options.memory
        image = Path(origin.images[origin.snapshot.vmstate_device])
        async with forked.flowing(image, origin.snapshot) as state:
            await _both(supervised.connect_started(f"unix:{place.qemu_socket}", greeted), making)
            vm = supervised.take(making.result(), made.record["argv"])
            vm.attached = {device.device: device for device in made.devices}
            ram = forked.Offered(origin.snapshot.id, lent.image, inherited, await seen[0])
            await forked.arrive(vm, state, ram, go=made.go)
        await supervised.open()
        await flushing
    except BaseException:
        await supervised.abandon()
        await asyncio.wait({making, flushing})
        if supervised.vm is None and making.exception() is None:
            making.result().close()
        raise
    return supervised


async def _both(connecting: Coroutine[Any, Any, None], making: asyncio.Task[Catalog]) -> None:
    """Wait until QEMU can be talked to, and all is made; or until one of them has failed."""
    connected = asyncio.create_task(connecting)
    try:
        await asyncio.wait({connected, making}, return_when=asyncio.FIRST_EXCEPTION)
        for ended in (connected, making):
            if ended.done():
                ended.result()
    except BaseException:
        connected.cancel()
        await asyncio.gather(connected, return_exceptions=True)
        raise


def _make_rest(place: VMPlace, lent: Lent, made: _Made, memory: Mapping[str, str], plan: RAMPlan) -> Catalog:
    """Make what a VM has beside its QEMU and its disks; not durably yet."""
    from ..memory.borrow import borrow  # noqa: PLC0415  numpy

    ramfiles.check_memory(plan.ours, hostmemory.available())
    borrow(lent.loan, place.pages)
    disks = [asdict(device) for device in made.devices]
    # Afterwards it is a VM that had a catalog, which is to be there then.
    catalog = open_catalog(place, durable=False)
    write_json(place.command, {**made.record, "memory": memory, "disks": disks}, durable=False)
    return catalog


async def _flush_after(making: asyncio.Task[Catalog], place: VMPlace, lent: Lent) -> None:
    await asyncio.wait({making})
    if making.exception() is None:
        await asyncio.to_thread(_flush, place, lent)


def _flush(place: VMPlace, lent: Lent) -> None:
    """Make the fork durable: before, nobody is told of it."""
    from ..memory import borrow  # noqa: PLC0415  numpy

    files = [*catalog_files(place), *borrow.files_of(lent.loan, place.pages), place.command]
    files += place.disks.glob("*.qcow2")
    sync_all(files, [place.pages, place.disks, place.directory, place.directory.parent])


async def _otherwise(place: VMPlace, origin: Source, made: _Made, umask: int) -> Supervised:
    """Start QEMU for a snapshot whose RAM is all in its VM state, or that has none.

    Effects on failure: QEMU doesn't run.
    """
    logs.set_up(place)
    supervised, memory = await starting.start(
        place, made.argv, origin.cwd, foreground=False, umask=umask, options=Options()
    )
    arrival = None
    if made.waits:
        arrival = forked.Whole(Path(origin.images[origin.snapshot.vmstate_device]), origin.snapshot)
    try:
        record = {**made.record, "memory": memory}
        await supervised.begin(record, fresh=True, same_qemu=False, go=made.go, arrival=arrival)
    except BaseException:
        await supervised.abandon()
        raise
    return supervised
