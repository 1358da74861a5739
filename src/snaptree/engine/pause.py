"""A section in which the VM stands still and nobody but us talks to QEMU.  Not for: what is done in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..model.errors import QEMUFailed, QEMUGone
from ..qemu.facts import Facts
from ..qemu.jobs import dismiss_soon
from .ramway import begin_ignoring_shared, stop_ignoring_soon
from .stopwatch import Stopwatch
from .vm import VM

Command = tuple[str, Mapping[str, object]]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pause:
    """A pause under way.

    :ivar was_running: the VM ran before, so it runs afterwards.
    :ivar stay: set where the VM must not continue, because disks and RAM may not belong together.
    :ivar facts: the VM in the moment before it was stopped; ``None`` where all had to be asked before.
    :ivar job_id: a job of ours that has concluded, and is not needed any more; empty where there is none.
    :ivar ignoring: QEMU is being told to leave shared RAM out; ``None`` where it is not.
    :ivar stuck: why the VM could not continue afterwards; empty where it could, or had not run.
    """

    vm: VM
    was_running: bool
    resumed_before: int
    stay: bool = False
    facts: Facts | None = None
    job_id: str = ""
    ignoring: asyncio.Task[Any] | None = None
    stuck: str = ""

    async def ignores_shared(self) -> None:
        """Wait until QEMU leaves shared RAM out; nothing where it shall not, for the whole pause.

        It does in order what it is asked: what is sent before this returns comes after it, too.

        :raises QEMUFailed: where it does not.
        """
        if self.ignoring is not None:
            await self.ignoring

    def continued(self) -> bool:
        """Say whether somebody else continued the VM meanwhile (a user's own monitor can)."""
        return self.vm.resumed != self.resumed_before

    def check_untouched(self) -> None:
        """Make sure that nobody else continued the VM meanwhile.

        :raises QEMUFailed: where somebody did.
        """
        if self.continued():
            raise QEMUFailed(
                "Another monitor of this QEMU continued the VM while its state was being saved.",
                "Do not use `cont` or `savevm` in another monitor meanwhile; try again.",
            )


@asynccontextmanager
async def paused(
    vm: VM,
    clock: Stopwatch,
    *,
    before: Facts | None = None,
    paged: bool = False,
    next_command: Command | None = None,
    meanwhile: Callable[[], None] | None = None,
    at_once: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Pause]:
    """Stop the VM where it runs, and continue it afterwards exactly where it ran.

    Prerequisites: the caller holds the VM's lock, and its gate is closed.
    Effects: afterwards the VM runs if it ran before, also after an error, unless ``stay`` was set.  That it could not
    continue is no error of what was done in the pause: ``stuck`` says it.

    :param before: what was found out before; some of it is asked again, for ``facts``.
    :param paged: QEMU shall leave shared RAM out of what is saved or loaded in the pause.  Where nobody else can let it
        save it is told so at once (:meth:`Pause.ignores_shared`), else for the job (:func:`.ramway.in_job`).
    :param next_command: what comes next but for that, with its first arguments, so that QEMU reads it ahead.
    :param meanwhile: what is begun while QEMU stops the VM, after it was told to.
    :param at_once: what is done as soon as the VM stands still, before ``facts`` are all there.
    :raises QEMUFailed: where QEMU doesn't stop; nothing was done then.
    :raises Exception: what ``at_once`` raises; the VM is continued then.
    """
    clock.stopping()
    stops = vm.stops
    pause = Pause(vm, False, vm.resumed)

    async def stop() -> None:
        # Also where it is paused already: `stop` drains and flushes.  QEMU sends STOP before its answer, if the VM ran.
        try:
            await vm.session.execute("stop")
        finally:
            pause.resumed_before, pause.was_running = vm.resumed, vm.stops != stops
        if at_once is not None:
            await at_once()

    ignoring_shared = paged and vm.sole
    ahead = next_command if vm.sole or not paged else None
    behind = _send_behind(pause, ahead, meanwhile, ignoring_shared=ignoring_shared)
    try:
        pause.facts = await vm.facts_then(before, stop(), behind)
        if pause.was_running:
            clock.stopped(vm.stopped_at_s)
        yield pause
    except QEMUGone:
        pause.stay = True
        raise
    finally:
        if not vm.session.closed.is_set():
            await _leave(vm, pause, clock, ignoring_shared=ignoring_shared)
        clock.resumed()


async def _send_behind(
    pause: Pause, next_command: Command | None, meanwhile: Callable[[], None] | None, *, ignoring_shared: bool
) -> None:
    """Send what QEMU need not have read before it begins to stop the VM, and begin what can be done meanwhile."""
    session = pause.vm.session
    if ignoring_shared:
        pause.ignoring = begin_ignoring_shared(session)
    if next_command is not None:
        session.read_ahead(*next_command)
    if meanwhile is not None:
        await asyncio.sleep(0)  # it is sent at the end of this turn; a thread that begins takes the interpreter from us
        meanwhile()


async def _leave(vm: VM, pause: Pause, clock: Stopwatch, *, ignoring_shared: bool) -> None:
    """End the pause.

    Nobody waits until the capability is off and the job is gone: QEMU does in order what is asked of it.  Whoever waits
    for its answer gets that before QEMU's threads take a core for the rest, as all is sent at once.
    """
    going = _Going(vm) if pause.was_running and not pause.stay else None
    try:
        if ignoring_shared:
            await stop_ignoring_soon(vm.session)
        if pause.job_id:
            await dismiss_soon(vm.session, pause.job_id)
    finally:
        if going is not None:
            try:
                await going.wait()
            except QEMUFailed as error:
                log.error("the VM could not continue: %s", error)
                pause.stuck = error.message
            finally:
                clock.resumed()


class _Going:
    """A ``cont`` that is under way.

    QEMU says RESUME when nothing can keep the VM from running any more, and answers when it has found a core for that.
    """

    def __init__(self, vm: VM) -> None:
        self._resumed = vm.session.expect(lambda event: event.get("event") == "RESUME")
        self._answered = vm.session.begin("cont")

    async def wait(self) -> None:
        """Wait until the VM runs.

        :raises QEMUFailed: where it cannot.
        """
        both = (self._answered, self._resumed)
        for work in both:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())  # of one nobody may ask
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._answered.done():
            self._resumed.cancel()
            await self._answered
        else:
            await self._resumed
