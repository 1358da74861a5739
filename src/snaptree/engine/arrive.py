"""Bringing a snapshot of its own to a VM whose guest has not run: a resume.  Not for: one that runs (``load``).

RAM comes first where it can be mapped.  Then the snapshot is loaded, disks and all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..model.errors import PageStoreError, SnaptreeError
from ..model.snapshot import Snapshot
from ..places.places import VMPlace
from . import ramway
from .load import load
from .vm import VM

if TYPE_CHECKING:
    from .lazily import LazyRAM


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
            await asyncio.to_thread(lazily.let_go, self._ram, vm.process.pid if vm.process else None)
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
