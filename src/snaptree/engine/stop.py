"""stop: keeping the present, and letting QEMU quit at exactly that moment.  Not for: waiting until it is gone."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from ..model.errors import QEMUGone, SnaptreeError
from ..model.snapshot import Snapshot
from . import trace
from .present import keep_now, look, prune
from .vm import VM

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """What was kept of a VM whose QEMU quits.

    :param kept: the automatic snapshot that was taken; ``None`` where there was nothing to keep, or it could not be.
    :param not_kept: why it could not be kept.
    """

    kept: Snapshot | None = None
    not_kept: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of ``vm-stop``."""
        return {"kept": self.kept.name if self.kept is not None else None, "not_kept": self.not_kept}


async def stop(vm: VM, *, keep: bool = True, client: str, wait: bool = True) -> Ended:
    """Stop the VM, take an automatic snapshot where it has run since its current one, and let QEMU quit.

    Effects: QEMU quits, also where nothing could be kept.  The guest does not run between snapshot and end, so the
    disks are at it.

    :raises Busy: before anything was changed.
    """
    async with vm.operation("stop", wait=wait):
        vm.require_qemu()
        ended = Ended()
        async with vm.exclusive():
            if keep:
                ended = await _keep(vm, client)
                trace.point("stop.kept")
            with suppress(QEMUGone):  # it may be gone before its answer is
                await vm.session.execute("quit")
        return ended


async def _keep(vm: VM, client: str) -> Ended:
    try:
        await vm.session.execute("stop")
        present = await look(vm)
        if not present.changed:
            return Ended()
        if present.reasons:
            return Ended(not_kept=present.reasons[0].message)
        kept = await keep_now(vm, "when the VM was stopped", client=client)
    except QEMUGone:
        raise
    except SnaptreeError as error:
        log.warning("%s", error)
        return Ended(not_kept=error.message)
    await prune(vm, client=client)
    return Ended(kept)
