"""undo: going back to where the VM was before its last load.  Not for: loading."""

from __future__ import annotations

from .load import Loaded, load_found
from .undo_target import target
from .vm import VM


async def undo(
    vm: VM, *, allow_resize: bool = False, keep: bool | None = None, client: str, wait: bool = True
) -> Loaded:
    """Load the snapshot of where the VM was before its last load; as a load it can be undone itself.

    :raises Refused: where there was no load, or what was before it was discarded.
    :raises NoSuchSnapshot: where its snapshot was deleted.
    :raises NotReady, Busy, QEMUFailed, LoadIncomplete, QEMUGone: as a load.
    """
    async with vm.operation("undo", wait=wait):
        vm.require_qemu()
        return await load_found(
            vm, lambda: target(vm.catalog, vm.place.name), allow_resize=allow_resize, keep=keep, client=client
        )
