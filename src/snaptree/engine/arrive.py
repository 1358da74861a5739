"""Bringing a snapshot's state to a QEMU whose guest has not run: a fork, a resume.  Not for: one that runs (``load``).

RAM comes first, as in a load.  Then a fork's QEMU reads the rest as an incoming migration, from a pipe that we fill
from the source's image, which is only read; and a VM that goes on from a snapshot of its own loads it, disks and all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..model.errors import ImageError, PageStoreError, QEMUFailed, SnaptreeError
from ..model.snapshot import Snapshot
from ..places.places import VMPlace
from ..qcow2.image import Image
from ..qemu.session import Session
from . import ramway
from .load import load
from .vm import VM

if TYPE_CHECKING:
    from .forkram import RAMImage
    from .lazily import LazyRAM

CHUNK_BYTES = 1 << 20
POLL_S = 0.001
FD_NAME = "snaptree-state"


class Arrival(Protocol):
    """What a VM goes on from, before its guest has run."""

    async def prepare(self, vm: VM) -> None:
        """Do what must be done before anybody looks at QEMU's RAM."""

    async def finish(self, vm: VM) -> None:
        """Bring the VM to the state; afterwards it stands still."""


class Resumed:
    """A snapshot of the VM's own, that a new QEMU goes on from.

    Where its RAM is kept in pages it is mapped from the page store if that can be; else the load reads it all.

    :ivar id: the snapshot.
    :ivar why_read: why its RAM, kept in pages, is read and not mapped; empty where it is mapped.
    :param client: who asked for it.
    """

    def __init__(self, snapshot: Snapshot, client: str, *, eagerly: bool = False) -> None:
        self.id = snapshot.id
        self.why_read = "That was asked for." if eagerly else ""
        self._client = client
        self._wanted = snapshot.memory == "pages" and not eagerly
        self._ram: LazyRAM | None = None

    async def open(self, place: VMPlace) -> Sequence[int]:
        """Make ready what a QEMU that is about to be started needs; return the descriptors that it has to inherit.

        Prerequisites: the caller holds the VM's lock.  Whatever happens, :meth:`close` comes afterwards.
        """
        if not self._wanted:
            return ()
        try:
            self._ram = await asyncio.to_thread(_open, place, self.id)
        except (SnaptreeError, OSError, ImportError) as error:
            self.why_read = str(error)
            return ()
        return self._ram.inherited

    def close(self) -> None:
        """Let go of what QEMU has inherited; a second time does nothing."""
        if self._ram is not None:
            self._ram.closing.close()

    async def prepare(self, vm: VM) -> None:
        """Map the snapshot's RAM, before anybody looks at QEMU's, where that can be.

        Effects on failure: QEMU has to be ended.

        :raises SnaptreeError, OSError: where RAM is of no moment now.
        """
        if self._ram is None:
            return
        from . import lazily  # noqa: PLC0415  numpy

        try:
            # Damage is named by the load, which reads all that is not mapped.
            await asyncio.to_thread(self._ram.checking.result)
            await lazily.map_ram(vm, self._ram)
        except (lazily.CannotMap, PageStoreError) as error:
            self.why_read = error.message
            await asyncio.to_thread(lazily.let_go, self._ram)
            self._ram = None

    async def finish(self, vm: VM) -> None:
        """Load it.

        :raises NotReady, LoadIncomplete, QEMUFailed, QEMUGone: as a load.
        """
        if self._ram is not None:
            from .lazily import settle  # noqa: PLC0415  numpy

            if vm.paged is None:
                raise SnaptreeError(f"The RAM of {vm.place.name} cannot be looked at: {vm.memory_why}")
            await ramway.in_thread(settle, vm.paged, self._ram)
        await load(vm, id=self.id, keep=False, client=self._client)


def _open(place: VMPlace, id: str) -> LazyRAM:
    from .lazily import open_ram  # noqa: PLC0415  numpy

    return open_ram(place, id)


@dataclass(frozen=True)
class Forked:
    """A snapshot of another VM, on its way into a QEMU that was started with ``-incoming defer``.

    :param image: the source's image that holds the VM state.
    :param ram: how its RAM is made; ``None`` where all of it is in the VM state.
    :param inherited: the descriptors that QEMU has of the files that RAM is made of.
    """

    snapshot: Snapshot
    image: Path
    ram: RAMImage | None = None
    inherited: Mapping[Path, int] | None = None

    async def prepare(self, vm: VM) -> None:
        """Map the snapshot's RAM, before anybody looks at QEMU's.

        Effects on failure: QEMU has to be ended.

        :raises SnaptreeError, OSError: where that can't be.
        """
        if self.ram is None or vm.process is None:
            return
        from ..memory.layout import Backend, find_regions  # noqa: PLC0415  numpy
        from .forkram import map_image  # noqa: PLC0415

        pid, backends = vm.process.pid, await ramway.shared_backends(vm.session)
        regions, reasons = await asyncio.to_thread(find_regions, pid, [Backend(*backend) for backend in backends])
        if reasons or {(r.block, r.size) for r in regions} != {(b.name, b.size) for b in self.ram.layout}:
            why = reasons[0].message if reasons else "It has other RAM blocks than the snapshot."
            raise SnaptreeError(f"The fork's QEMU cannot take the snapshot's RAM. {why}")
        vm.ram_addresses = {region.block: region.address for region in regions}
        await asyncio.to_thread(map_image, pid, regions, self.ram, self.inherited or {})

    async def finish(self, vm: VM) -> None:
        """Let QEMU read the rest; afterwards the VM is the snapshot's, and stands still.

        Prerequisites: RAM is mapped, and its way is chosen.

        :raises QEMUFailed, QEMUGone: where QEMU can't.
        """
        if self.ram is None:
            await self._read_state(vm.session)
            return
        if vm.paged is None:
            raise SnaptreeError(f"The fork's RAM cannot be looked at: {vm.memory_why}")
        await ramway.in_thread(self._settle, vm)
        async with ramway.ignoring_shared(vm.session):
            await self._read_state(vm.session)

    def _settle(self, vm: VM) -> None:
        from .forkram import copy_rest  # noqa: PLC0415  numpy

        assert vm.paged is not None
        assert self.ram is not None
        copy_rest(vm.paged.ram, vm.paged.store, self.snapshot.id, self.ram)
        vm.paged.arm()
        vm.paged.settle(self.snapshot.id)

    async def _read_state(self, session: Session) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        filling = asyncio.create_task(asyncio.to_thread(self._fill, write))
        try:
            message = {"execute": "getfd", "arguments": {"fdname": FD_NAME}}
            reply = await session.pass_on(message, fd=read)
            os.close(read)
            read = -1
            if "error" in reply:
                raise QEMUFailed(f"QEMU did not take a descriptor: {reply['error']['desc']}")
            await session.execute("migrate-incoming", {"uri": f"fd:{FD_NAME}"})
            while True:
                if (await session.execute("query-status"))["status"] != "inmigrate":
                    break
                await asyncio.sleep(POLL_S)
        finally:
            if read >= 0:
                os.close(read)
            with contextlib.suppress(BrokenPipeError):
                await filling
        state = await session.execute("query-migrate")
        if state.get("status") == "failed":
            raise QEMUFailed(f"QEMU could not take the snapshot's state: {state.get('error-desc', 'no reason given')}.")

    def _fill(self, pipe: int) -> None:
        """Write the VM state into a pipe, and close it."""
        try:
            with Image.open(self.image) as image:
                found = [entry for entry in image.snapshots() if entry.tag == self.snapshot.tag]
                if len(found) != 1:
                    raise ImageError(f"{self.image} holds {self.snapshot.name} {len(found)} times.")
                for start in range(0, found[0].vm_state_size, CHUNK_BYTES):
                    data = image.read_vm_state(found[0], start, CHUNK_BYTES)
                    while data:
                        data = data[os.write(pipe, data) :]
        finally:
            os.close(pipe)
