"""Which process is meant: a pid together with its start time and the boot.  Not for: starting or ending one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that a pid alone does not name, because pids are used again.

    :param start: the start time in clock ticks since boot (field 22 of ``/proc/PID/stat``, proc(5)).
    :param boot: the kernel's boot id.
    """

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Say whether it still runs (a zombie does not)."""
        return identify(self.pid) == self


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of the process that has ``pid`` now; ``None`` where none has it, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything, so what counts begins after the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessIdentity(pid, int(fields[19]), boot)
