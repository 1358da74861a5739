"""A section in which the VM stands still and nobody but us talks to QEMU.  Not for: what is done in it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..model.errors import QEMUFailed, QEMUGone
from .vm import VM, Stopwatch

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pause:
    """A pause under way.

    :ivar was_running: the VM ran before, so it runs afterwards.
    :ivar stay: set where the VM must not continue, because disks and RAM may not belong together.
    :ivar stuck: why the VM could not continue afterwards; empty where it could, or had not run.
    """

    vm: VM
    was_running: bool
    resumed_before: int
    stay: bool = False
    stuck: str = ""

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
async def paused(vm: VM, clock: Stopwatch) -> AsyncIterator[Pause]:
    """Stop the VM where it runs, and continue it afterwards exactly where it ran.

    Prerequisites: the caller holds the VM's lock, and its gate is closed.
    Effects: afterwards the VM runs if it ran before, also after an error, unless ``stay`` was set.  That it could not
    continue is no error of what was done in the pause: ``stuck`` says it.

    :raises QEMUFailed: where QEMU doesn't stop; nothing was done then.
    """
    clock.stopped()
    stops = vm.stops
    # Also where it is paused already: `stop` drains and flushes.  QEMU sends STOP before its answer, if the VM ran.
    await vm.session.execute("stop")
    pause = Pause(vm, vm.stops != stops, vm.resumed)
    try:
        yield pause
    except QEMUGone:
        pause.stay = True
        raise
    finally:
        if pause.was_running and not pause.stay and not vm.session.closed.is_set():
            try:
                await vm.session.execute("cont")
            except QEMUGone:
                raise
            except QEMUFailed as error:
                log.error("the VM could not continue: %s", error)
                pause.stuck = error.message
        clock.resumed()
