"""A section in which the VM stands still and nobody but us talks to QEMU.  Not for: what is done in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..model.errors import QEMUFailed, QEMUGone
from .vm import VM, Stopwatch


@dataclass(slots=True)
class Pause:
    """A pause under way.

    :ivar was_running: the VM ran before, so it runs afterwards.
    :ivar stay: set where the VM must not continue, because disks and RAM don't belong together.
    """

    vm: VM
    was_running: bool
    resumed_before: int
    stay: bool = False

    def continued(self) -> bool:
        """Say whether somebody else continued the VM meanwhile."""
        self.vm.session.deliver()
        return self.vm.resumed != self.resumed_before

    def check_untouched(self) -> None:
        """Make sure that nobody else continued the VM meanwhile (a user's own monitor can).

        :raises QEMUFailed: where somebody did.
        """
        if self.continued():
            raise QEMUFailed(
                "Another monitor of this QEMU continued the VM while its state was being saved.",
                "Do not use `cont` or `savevm` in another monitor meanwhile; try again.",
            )


@asynccontextmanager
async def paused(vm: VM, clock: Stopwatch, *, was_running: bool) -> AsyncIterator[Pause]:
    """Stop the VM where it runs, and continue it afterwards exactly where it ran.

    Prerequisites: the caller holds the VM's lock.
    Effects: commands of clients wait at the gate.  Afterwards the VM runs if it ran before, also after an error, unless
    ``stay`` was set.

    :param was_running: from the facts, so that no more time is lost by asking.
    """
    vm.gate.clear()
    clock.stopped()
    pause = Pause(vm, was_running, vm.resumed)
    try:
        # Also where it is paused already: `stop` drains and flushes, and another monitor may have continued it.
        await vm.session.execute("stop")
        vm.session.deliver()
        pause.resumed_before = vm.resumed
        yield pause
    except QEMUGone:
        pause.stay = True
        raise
    finally:
        try:
            if was_running and not pause.stay and not vm.session.closed.is_set():
                await vm.session.execute("cont")
        finally:
            clock.resumed()
            vm.gate.set()
