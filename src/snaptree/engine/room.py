"""Saying which file system was too small for a snapshot, and how much it needs there.  Not for: making room."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..memory.kernel import PAGE_SIZE
from ..model.errors import ImageError, PageStoreError, QEMUFailed, QEMUGone, SnaptreeError
from ..model.snapshot import Snapshot
from ..places.room import shortage

if TYPE_CHECKING:
    from .paged import PagedRAM
    from .vm import VM

TABLES_BYTES = 1 << 20
"""What an image's own tables take for one more snapshot, beside the VM state."""
DEVICE_STATE_BYTES = 16 << 20
"""What a VM state without RAM takes, where no snapshot of the VM tells it: video memory most of all."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


async def explain_create(vm: VM, plan: Mapping[str, Any], error: SnaptreeError) -> None:
    """Where a create has failed for want of room, add to its error where, how much there is, and how much is needed.

    QEMU itself says no more than "Input/output error", and that only of what it writes into images.  To be called
    before what was written is taken away again.

    :param plan: the snapshot, as it was to be.
    """
    if isinstance(error, PageStoreError):
        count = await asyncio.to_thread(_pages, vm.paged) if vm.paged is not None else 0
        explain(error, [(vm.place.pages, count * PAGE_SIZE)])
    elif isinstance(error, QEMUFailed) and not isinstance(error, QEMUGone):
        known = await vm.disk(vm.catalog.snapshots)
        state = {plan["vmstate_device"]: _state_bytes(plan, known)}
        explain(error, [(d["file"], TABLES_BYTES + state.get(d["device"], 0)) for d in plan["devices"]])


def explain(error: SnaptreeError, needs: Iterable[tuple[str | Path, int]]) -> None:
    """Where one of these files has too little room, add that to an error of writing to them.

    :param needs: files, and how many bytes more each of them needs; 0 where that is not known.
    """
    said = shortage(((file, size) for file, size in needs if str(file).startswith("/")), surely=_says_so(error))
    if said and said not in error.message:
        error.message = f"{error.message} {said}"
        error.remedy = "Make room there, or delete snapshots, and try again."


def _says_so(error: SnaptreeError) -> bool:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in _NO_ROOM
    return isinstance(error, ImageError | QEMUFailed) and "No space left on device" in error.message


def _pages(paged: PagedRAM) -> int:
    """Return how many pages a snapshot of RAM would write now, at most."""
    return len(paged.populated()) if paged.base is None else len(paged.pending)


def _state_bytes(plan: Mapping[str, Any], known: Iterable[Snapshot]) -> int:
    """Return how large the VM state will be, about: as the largest one that was taken in the same way."""
    alike = [snapshot.vm_state_size for snapshot in known if snapshot.memory == plan["memory"]]
    guess = DEVICE_STATE_BYTES + (plan["machine"]["ram_size"] if plan["memory"] == "full" else 0)
    return max(alike, default=guess)
