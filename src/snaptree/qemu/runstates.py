"""QEMU's run states: in which a snapshot can be taken or loaded.  Not for: changing them.

Tried with a guest that counts, on each state, QEMU 7.2 and 10.0.
"""

from __future__ import annotations

PRECONFIG = "preconfig"
"""Our name for it: query-status says prelaunch then, too."""

WORKS = frozenset({"running", "paused", "prelaunch", "debug", "watchdog", "io-error", "guest-panicked"})
"""Here both work.  Requests that failed (io-error) are part of the state, and are tried again after a load."""

RESET_BEFORE_LOAD = frozenset({"shutdown", "internal-error", "suspended"})
"""Here a load works, but the VM cannot continue afterwards: QEMU keeps the run state over the load, and in these
``cont`` is refused ("Resetting the Virtual Machine is required") or does nothing.  After a reset it is prelaunch."""

# state: what is in the way, what to do
_MIGRATION = {
    "inmigrate": (
        "QEMU waits for an incoming migration; its disks belong to the other side until then",
        "Let the migration arrive, or start QEMU without -incoming.",
    ),
    "postmigrate": (
        "the VM was migrated away, and QEMU has given up its disks",
        "Where it runs on the other side, use it there; where it surely does not, `cont` takes the disks back.",
    ),
    "finish-migrate": ("a migration is about to end", "Wait for its end, or end it: `migrate_cancel` in the monitor."),
    "colo": ("the VM is one half of a COLO pair", "End COLO first: `x_colo_lost_heartbeat` in the monitor."),
    "save-vm": ("QEMU is saving the VM's state", "Try again once that is over."),
    PRECONFIG: (
        "QEMU was started with --preconfig and has not built the machine yet",
        "Finish it: `x_exit_preconfig` in the monitor.",
    ),
}
_CREATE = {
    "shutdown": (
        "the guest has powered off, and QEMU keeps it (-no-shutdown): it would be off again after a load",
        "Load a snapshot, or start the guest anew: `system_reset` and `cont` in the monitor.",
    ),
    "internal-error": (
        "QEMU stopped the guest because it could not go on (internal error)",
        "Load a snapshot, or start the guest anew: `system_reset` and `cont` in the monitor.",
    ),
    "suspended": (
        "the guest sleeps (ACPI S3), and QEMU before 9.0 cannot wake it after a load",
        "Wake it: `system_wakeup` in the monitor.",
    ),
    "restore-vm": (
        "a load failed, so that disks and RAM may be of different moments",
        "Load a snapshot; any whole load makes the VM whole.",
    ),
}


def why_no_create(state: str) -> tuple[str, str] | None:
    """Return what stands against taking a snapshot in this run state, and its remedy; ``None`` where it works."""
    return None if state in WORKS else (_CREATE | _MIGRATION).get(state, _unknown(state))


def why_no_load(state: str) -> tuple[str, str] | None:
    """Return what stands against loading a snapshot in this run state, and its remedy; ``None`` where it works."""
    if state in WORKS or state in RESET_BEFORE_LOAD or state == "restore-vm":
        return None
    return _MIGRATION.get(state, _unknown(state))


def _unknown(state: str) -> tuple[str, str]:
    return f"QEMU's run state is {state}, which this snaptree doesn't know", "Pause or continue the VM, and try again."
