"""Resetting the VM so that it can continue after a load.  Not for: a reset that a user wants."""

from __future__ import annotations

from ..model.errors import QEMUFailed
from .facts import Query

TRIES = 200


async def reset_for_load(query: Query, *, no_reboot: bool) -> None:
    """Reset a VM whose guest has powered off, failed or sleeps; afterwards it is stopped in ``prelaunch``.

    QEMU with ``-no-reboot`` would end at a ``system_reset``, so that is switched off for the moment.  The reset itself
    comes some time after the answer to the command, and must not come after the load.

    :param no_reboot: ``-no-reboot`` applies afterwards as before.
    :raises QEMUFailed: where the VM doesn't reset.
    """
    await query("set-action", {"reboot": "reset"})
    try:
        await query("system_reset", None)
        for _ in range(TRIES):  # each query is a turn of QEMU's main loop, and the first one resets
            if (await query("query-status", None))["status"] == "prelaunch":
                return
        raise QEMUFailed("QEMU did not reset the VM, which the load needs first.", "Try again.")
    finally:
        if no_reboot:
            await query("set-action", {"reboot": "shutdown"})
