"""What was found out about a QEMU, for as long as it stays true.  Not for: what is decided by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from ..qcow2.table import ImageSnapshot
from ..qemu.blockdevs import BlockDevice
from ..qemu.facts import Facts, StaticFacts, gather, gather_devices, gather_static, refresh, refresh_then, with_tables
from ..qemu.launch import Process
from ..qemu.session import Session
from ..qemu.together import all_ended
from . import images


class KnownFacts:
    """The facts of one QEMU.  Where nobody but us can change them, they are asked for once."""

    def __init__(self, session: Session, process: Process | None) -> None:
        self._execute = session.execute
        self._process = process
        self._static: StaticFacts | None = None
        self._known: _Known | None = None  # gathered, and still true but for what changes by itself
        self._changes = 0

    async def now(self, *, keep: bool) -> Facts:
        """Return the facts as they are now.

        :param keep: they stay true until :meth:`forget`, but for what changes by itself.
        """
        if self._static is None:
            self._static = await gather_static(self._execute)
        facts = await self._refreshed()
        if facts is None:
            changes = self._changes
            facts = await gather(self._execute, static=self._static, pid=self._pid())
            self._known = None
            if keep and not facts.nodes_error:
                known = await asyncio.to_thread(_knowable, facts)
                if changes == self._changes:
                    self._known = known
        return facts

    async def then(self, before: Facts | None, last: Awaitable[object], *behind: Awaitable[object]) -> Facts | None:
        """Do the last thing that the facts are asked for, and ask once more in the same breath.

        :param before: what was found out so far; ``None`` where nothing depends on it.
        :param behind: what is begun after all that.
        :return: the facts just before ``last``; ``None`` where all would have to be asked.
        :raises QEMUFailed, QEMUGone: where one of all that fails; each has ended then.
        """
        known = self._known
        if known is None or before is None:
            await all_ended(last, *behind)
            return None
        facts = await refresh_then(self._execute, before, last, *behind)
        if self._known is known:
            self._known = replace(known, facts=facts)
        return facts

    def expected(self) -> Facts | None:
        """Return the facts as they must be now, by all that is known of a VM that runs; ``None`` where little is.

        Reads images, so not in the event loop.
        """
        known = self._known
        if known is None or not known.facts.running:
            return None
        tables = known.tables()
        return with_tables(known.facts, tables) if tables is not None else None

    async def devices(self) -> tuple[BlockDevice, ...]:
        """Return the block devices as they are now."""
        known = self._known
        if known is not None:
            tables = await asyncio.to_thread(known.tables)
            if tables is not None:
                return tuple(replace(device, snapshots=tables[device.device]) for device in known.facts.devices)
        return await gather_devices(self._execute, pid=self._pid())

    def forget(self) -> None:
        """Ask QEMU everything again the next time."""
        self._known = None
        self._changes += 1

    def _pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def _refreshed(self) -> Facts | None:
        """Return the facts as they are now from those that are known, or ``None`` where all must be asked again."""
        known = self._known
        if known is None:
            return None
        tables = await asyncio.to_thread(known.tables)
        if tables is None:
            return None
        facts = await refresh(self._execute, known.facts, tables)
        if self._known is known:
            self._known = replace(known, facts=facts)
        return facts


@dataclass(frozen=True, slots=True)
class _Known:
    """Facts that stay true, but for what changes by itself, and the files in which the snapshots are."""

    facts: Facts
    files: dict[str, tuple[int, int]]

    def tables(self) -> dict[str, tuple[ImageSnapshot, ...]] | None:
        """Read the images' snapshots as they are now; ``None`` where one cannot be read, or is another file now."""
        if images.identities(self.facts.devices) != self.files:
            return None
        return images.tables(self.facts.devices)


def _knowable(facts: Facts) -> _Known | None:
    """Return what can be kept of facts: nothing where an image does not show what QEMU says is in it."""
    known = _Known(facts, images.identities(facts.devices))
    tables = known.tables()
    if tables is None:
        return None
    for device in facts.devices:
        if [(s.qemu_id, s.tag) for s in device.snapshots] != [(s.qemu_id, s.tag) for s in tables[device.device]]:
            return None
    return known
