"""Where the VM stood at its last create or load, by its clock and by how often it ran on.  Not for: asking QEMU."""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_SLACK_S = 1.0


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """The VM's clock at a moment: it runs no faster than the host's, unless QEMU counts instructions.

    :param id: the snapshot that was current from then on.
    :param at_s: the host's monotonic clock, on which QEMU's virtual clock is built.
    """

    id: str
    vm_clock_ns: int
    at_s: float

    def outrun(self, vm_clock_ns: int, at_s: float) -> bool:
        """Say whether the VM's clock, when it stopped at ``at_s``, was further on than it can have come by running."""
        return vm_clock_ns - self.vm_clock_ns > (at_s - self.at_s + CLOCK_SLACK_S) * 1e9


@dataclass(frozen=True, slots=True)
class Stands:
    """The VM stood still exactly at a snapshot.

    :param resumed: how often it had been continued until then; once more, and it has run since.
    """

    id: str
    resumed: int
