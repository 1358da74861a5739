"""Bringing a snapshot's state to a QEMU whose guest has not run: a fork, a resume.  Not for: one that runs (``load``).

Into a fork RAM comes first, as in a load; then QEMU reads the rest as an incoming migration, from a pipe that we fill
from the source's image.  The source is only read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..model.errors import ImageError, QEMUFailed, SnaptreeError
from ..model.snapshot import Snapshot
from ..qcow2.image import Image
from ..qemu.session import Session
from . import ramway
from .load import load
from .vm import VM

if TYPE_CHECKING:
    from .forkram import RAMImage

CHUNK_BYTES = 1 << 20
POLL_S = 0.001
FD_NAME = "snaptree-state"


class Arrival(Protocol):
    """What a VM goes on from, before its guest has run."""

    async def prepare(self, vm: VM) -> None:
        """Do what must be done before anybody looks at QEMU's RAM."""

    async def finish(self, vm: VM) -> None:
        """Bring the VM to the state; afterwards it stands still."""


@dataclass(frozen=True)
class Resumed:
    """A snapshot of the VM's own, that a new QEMU goes on from.

    :param client: who asked for it.
    """

    id: str
    client: str

    async def prepare(self, vm: VM) -> None:
        """Do nothing: the load does it all."""

    async def finish(self, vm: VM) -> None:
        """Load it.

        :raises NotReady, LoadIncomplete, QEMUFailed, QEMUGone: as a load.
        """
        await load(vm, id=self.id, keep=False, client=self.client)


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
