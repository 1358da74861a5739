"""Bringing a snapshot of its own to a VM whose guest has not run: a resume.  Not for: one that runs (``load``).

RAM comes first where it can be mapped.  Then the snapshot is loaded, disks and all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..model.errors import PageStoreError, SnaptreeError
from ..model.snapshot import Snapshot
from ..places import mapped
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from . import ramway
from .load import load
from .vm import VM

if TYPE_CHECKING:
    from .lazily import LazyRAM

FILES_MAX = 128
"""QEMU inherits so many at most; 1,024 are what a process may commonly have open."""


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
        self._inherited = contextlib.ExitStack()
        self._lock: SupervisorLock | None = None
        self._files: dict[Path, int] = {}
        self._opening: asyncio.Task[LazyRAM] | None = None
        self._ram: LazyRAM | None = None

    def open(self, place: VMPlace) -> Sequence[int]:
        """Begin to make RAM ready; return the descriptors that a QEMU which is about to be started has to inherit.

        It is not waited for: QEMU starts meanwhile.

        Prerequisites: the caller holds the VM's lock.  Whatever happens, :meth:`close` comes afterwards.
        """
        if not self._wanted:
            return ()
        if os.environ.get(ramway.TRACKER) == "compare":
            self.why_read = "Pages that are mapped could be compared only slowly."
            return ()
        try:
            self._lock = mapped.hold(place.pages, self.id)
            if self._lock is None:
                self.why_read = "Another QEMU maps its pages."
                return ()
            self._inherited.callback(self._lock.release)
            for path in _largest(place.pages):
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._inherited.callback(os.close, self._files[path])
        except OSError as error:
            self.why_read = f"{error.filename or place.pages}: {error.strerror or error}."
            return ()
        self._opening = asyncio.create_task(asyncio.to_thread(_open, place, self.id, tuple(self._files)))
        return [*self._files.values(), self._lock.fd]

    async def close(self) -> None:
        """Let go of all; QEMU, where it was started, has what it needs.  A second time does nothing."""
        opening, self._opening = self._opening, None
        if opening is not None:
            with contextlib.suppress(SnaptreeError, OSError, ImportError):
                ram = await opening
                from .lazily import close  # noqa: PLC0415  numpy

                await asyncio.to_thread(close, ram)
        self._inherited.close()

    async def prepare(self, vm: VM) -> None:
        """Map the snapshot's RAM, before anybody looks at QEMU's, where that can be.

        Effects on failure: QEMU has to be ended.

        :raises SnaptreeError, OSError: where RAM is of no moment now.
        """
        if self._opening is None:
            return
        try:
            ram = await asyncio.shield(self._opening)
        except (SnaptreeError, OSError, ImportError) as error:
            await self._read_instead(vm, str(error))
            return
        from . import lazily  # noqa: PLC0415  numpy

        try:
            # Damage is named by the load, which reads all that is not mapped.
            await asyncio.to_thread(ram.checking.result)
            await lazily.map_ram(vm, ram, self._files)
        except (lazily.CannotMap, PageStoreError) as error:
            await self._read_instead(vm, error.message)
        else:
            self._ram = ram

    async def _read_instead(self, vm: VM, why: str) -> None:
        """Keep the pages no longer."""
        self.why_read = why
        with contextlib.suppress(OSError):
            mapped.let_go(vm.place.pages, self.id)
        left = [*self._files.values(), *([self._lock.fd] if self._lock is not None else [])]
        await self.close()
        if vm.process is not None:
            with contextlib.suppress(ImportError):
                from .lazily import close_in_qemu  # noqa: PLC0415  numpy

                await asyncio.to_thread(close_in_qemu, vm.process.pid, left)

    async def finish(self, vm: VM) -> None:
        """Load it.

        :raises NotReady, LoadIncomplete, QEMUFailed, QEMUGone: as a load.
        """
        if self._ram is not None:
            from .lazily import settle  # noqa: PLC0415  numpy

            if vm.paged is None:
                raise SnaptreeError(f"The RAM of {vm.place.name} cannot be looked at: {vm.memory_why}")
            await ramway.in_thread(settle, vm.paged, self._ram)
        if vm.paged is not None:
            vm.paged.has_run = False
        await load(vm, id=self.id, keep=False, client=self._client)
        if vm.paged is not None:
            vm.paged.has_run = True


def _largest(pages: Path) -> list[Path]:
    """Return the files of a page store that hold most, as many as a process may commonly open beside others."""
    found = [(entry.stat().st_blocks, entry.path) for entry in os.scandir(pages) if entry.name.endswith(".pages")]
    return [Path(path) for _, path in sorted(found, reverse=True)[:FILES_MAX]]


def _open(place: VMPlace, id: str, files: tuple[Path, ...]) -> LazyRAM:
    from .lazily import open_ram  # noqa: PLC0415  numpy

    return open_ram(place, id, files)
