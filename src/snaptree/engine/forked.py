"""Bringing a snapshot of another VM to a fork's QEMU, which waits for it.  Not for: one of the VM's own (``arrive``).

RAM comes first, as in a load.  Then QEMU reads the rest as an incoming migration, from a pipe that we fill from the
source's image.  The source is only read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.errors import ImageError, QEMUFailed, SnaptreeError
from ..model.snapshot import Snapshot
from ..qcow2.image import Image
from ..qcow2.vmstate import IGNORE_SHARED
from ..qemu.session import Session
from ..qemu.together import all_ended
from . import ramway
from .vm import VM

if TYPE_CHECKING:
    from ..memory import layout
    from ..memory.instructions import Code
    from .forkram import RAMImage

CHUNK_BYTES = 1 << 20
PIPE_BYTES = 1 << 20
"""As much as a process may commonly have in a pipe (fs.pipe-max-size): what it says of devices lies ready in it."""
FD_NAME = "snaptree-state"
EVENTS = "events"
"""The migration capability by which QEMU tells of a migration's end."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A snapshot's RAM, ready to be mapped.

    :param id: the snapshot.
    :param image: how its RAM is made.
    :param inherited: the descriptors that QEMU has of the files that it is made of.
    :param seen: what was seen of QEMU before it could be asked anything.
    """

    id: str
    image: RAMImage
    inherited: Mapping[Path, int]
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a QEMU shows of itself as soon as it has its RAM."""

    memory: layout.Seen
    code: Code


def see(pid: int) -> Seen | None:
    """Look at a QEMU that has its RAM, but can't be asked yet; ``None`` where that cannot be."""
    from ..memory import instructions, layout  # noqa: PLC0415  numpy

    try:
        return Seen(layout.look(pid), instructions.Code.of(pid))
    except (SnaptreeError, OSError):
        return None  # it is looked at again, and then says why


@asynccontextmanager
async def flowing(image: Path, snapshot: Snapshot) -> AsyncIterator[int]:
    """Write a snapshot's VM state into a pipe inside, and yield the pipe's end for reading.

    :param image: the source's, that holds the VM state.
    :raises ImageError: on leaving, where it cannot be read.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    filling = asyncio.create_task(asyncio.to_thread(_fill, write, image, snapshot))
    try:
        yield read
    finally:
        os.close(read)
        with contextlib.suppress(BrokenPipeError):
            await filling


@dataclass(frozen=True, slots=True)
class Whole:
    """A snapshot whose RAM is all in its VM state, on its way into a QEMU that was started with ``-incoming defer``.

    :param image: the source's, that holds the VM state.
    """

    image: Path
    snapshot: Snapshot

    async def prepare(self, vm: VM) -> None:
        """Do nothing."""

    async def finish(self, vm: VM) -> None:
        """Let QEMU read it; afterwards the VM stands still.

        :raises SnaptreeError: where it can't.
        """
        async with flowing(self.image, self.snapshot) as state:
            await arrive(vm, state, None, go=False)


async def arrive(vm: VM, state: int, ram: Offered | None, *, go: bool) -> None:
    """Bring the snapshot to QEMU, and let it run.

    Prerequisites: QEMU was started with ``-incoming defer`` and ``-S``, and nobody has looked at its RAM.
    Effects on failure: QEMU has to be ended.

    :param state: a pipe that its VM state comes out of.
    :param ram: its RAM, in which case ``vm.paged`` is set; ``None`` where all of it is in the VM state.
    :param go: let it run.
    :raises SnaptreeError, OSError: where QEMU can't take it.
    """
    capabilities = [EVENTS, *[IGNORE_SHARED] * (ram is not None)]
    offering = _offer(vm.session, state, capabilities)
    if ram is None:
        await offering
    else:
        await all_ended(map_ram(vm, ram), offering)
    await _take(vm.session)
    vm.warm = True
    vm.run_state = "paused"
    goes = [vm.session.execute("cont")] if go else []
    await asyncio.gather(ramway.set_capabilities(vm.session, capabilities, on=False), *goes)


async def _offer(session: Session, state: int, capabilities: Sequence[str]) -> None:
    """Hand QEMU the pipe."""
    await ramway.set_capabilities(session, capabilities, on=True)
    reply = await session.pass_on({"execute": "getfd", "arguments": {"fdname": FD_NAME}}, fd=state)
    if "error" in reply:
        raise QEMUFailed(f"QEMU did not take a descriptor: {reply['error']['desc']}")


async def _take(session: Session) -> None:
    """Let QEMU read the pipe to its end; afterwards the VM stands still.

    :raises QEMUFailed, QEMUGone: where it can't.
    """
    # QEMU says so after every change of its run state.
    ended = session.expect(lambda event: event["event"] == "MIGRATION" and _status(event) in ("completed", "failed"))
    try:
        await session.execute("migrate-incoming", {"uri": f"fd:{FD_NAME}"})
        if _status(await ended) == "failed":
            why = (await session.execute("query-migrate")).get("error-desc", "no reason given")
            raise QEMUFailed(f"QEMU could not take the snapshot's state: {why}.")
    finally:
        if not ended.cancel() and not ended.cancelled():
            ended.exception()  # looked at, so that nobody complains that it wasn't


def _status(event: Mapping[str, object]) -> str:
    data = event.get("data")
    return str(data.get("status")) if isinstance(data, dict) else ""


async def map_ram(vm: VM, ram: Offered) -> None:
    """Map a snapshot's RAM, and open it.

    Prerequisites: the page store has the snapshot.
    Effects on success: ``vm.paged`` is set; RAM is the snapshot's, and known to be; a later supervisor finds where it
    is.  Effects on failure: QEMU has to be ended.

    :raises SnaptreeError, OSError: where that can't be.
    """
    assert vm.process is not None
    backends = await _backends(vm.session, [block.name for block in ram.image.layout])
    await ramway.in_thread(_map, vm, vm.process.pid, backends, ram)


async def _backends(session: Session, expected: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return what :func:`.ramway.shared_backends` does, in one breath where they are those that are expected."""

    async def path_of(id: str) -> str:
        with contextlib.suppress(QEMUFailed):
            return str(await session.execute("qom-get", {"path": f"/objects/{id}", "property": "mem-path"}))
        return ""

    known, *paths = await asyncio.gather(session.execute("query-memdev"), *map(path_of, expected))
    sizes = {str(item.get("id")): int(item["size"]) for item in known if item.get("share")}
    if sizes.keys() != set(expected) or not all(paths):
        return await ramway.shared_backends(session)
    return sorted((id, path, sizes[id]) for id, path in zip(expected, paths, strict=True))


def _map(vm: VM, pid: int, backends: Sequence[tuple[str, str, int]], ram: Offered) -> None:
    from ..memory.layout import Backend, find_regions  # noqa: PLC0415  numpy
    from . import forkram  # noqa: PLC0415

    wanted = [Backend(*backend) for backend in backends]
    regions, reasons = find_regions(pid, wanted, seen=ram.seen.memory if ram.seen else None)
    if reasons and ram.seen:
        regions, reasons = find_regions(pid, wanted)
    if reasons or not ram.image.fits(regions):
        why = reasons[0].message if reasons else "It has other RAM blocks than the snapshot."
        raise SnaptreeError(f"The fork's QEMU cannot take the snapshot's RAM. {why}")
    ramway.note_addresses(vm, regions)
    forkram.map_image(pid, regions, ram.image, ram.inherited, code=ram.seen.code if ram.seen else None)
    vm.paged = paged = ramway.open_regions(vm, pid, [replace(r, private=True, covered=True) for r in regions])
    vm.memory_why = paged.tracker.why
    forkram.copy_rest(paged.ram, paged.store, ram.id, ram.image)
    paged.arm()
    paged.settle(ram.id)


def _fill(pipe: int, image: Path, snapshot: Snapshot) -> None:
    """Write the VM state into a pipe, and close it."""
    try:
        with Image.open(image) as opened:
            found = [entry for entry in opened.snapshots() if entry.tag == snapshot.tag]
            if len(found) != 1:
                raise ImageError(f"{image} holds {snapshot.name} {len(found)} times.")
            for start in range(0, found[0].vm_state_size, CHUNK_BYTES):
                data = opened.read_vm_state(found[0], start, CHUNK_BYTES)
                while data:
                    data = data[os.write(pipe, data) :]
    finally:
        os.close(pipe)
