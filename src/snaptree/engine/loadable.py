"""Whether a snapshot can be loaded now, and its RAM made ready to be written.  Not for: loading it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..model.errors import NotReady, PageStoreError
from ..model.reason import Reason
from ..model.snapshot import Snapshot
from ..qemu.facts import Facts
from . import images
from .ramway import in_thread
from .ramway import load_reasons as ram_reasons
from .status import load_reasons
from .vm import VM

if TYPE_CHECKING:
    from .putting import Putting


async def ready(
    vm: VM, snapshot: Snapshot, *, allow_resize: bool, way_back: bool = True
) -> tuple[Facts, Putting | None]:
    """Find out whether a snapshot can be loaded now, and make its RAM ready to be written.

    :param way_back: RAM is of one moment now, so a load that fails early can put it back.
    :raises NotReady: where it can't be; nothing was changed.
    """
    facts, (ram, unreadable) = await asyncio.gather(vm.facts(), _putting(vm, snapshot, way_back))
    reasons = load_reasons(facts, snapshot, allow_resize=allow_resize)
    if not reasons:
        reasons = await asyncio.to_thread(_ram_reasons, vm, snapshot, facts)
    if not reasons and unreadable is not None:
        reasons = (Reason("pages-damaged", unreadable.message, "Load another snapshot; `snaptree check` says more."),)
    if reasons:
        raise NotReady(f"{snapshot.name} cannot be loaded now: {reasons[0].message}", reasons[0].remedy, reasons)
    return facts, ram


async def _putting(vm: VM, snapshot: Snapshot, way_back: bool) -> tuple[Putting | None, PageStoreError | None]:
    """Read and check the pages that will be written, where RAM is kept in pages; or say why they can't be."""
    if snapshot.memory != "pages" or vm.paged is None:
        return None, None
    from .putting import Putting  # noqa: PLC0415  numpy, which is there where RAM is paged

    try:
        if not await in_thread(vm.paged.fits, snapshot.id):
            return None, None
        ram = await in_thread(Putting, vm.paged, snapshot.id, way_back=way_back)
        await in_thread(ram.prepare)
    except PageStoreError as error:
        return None, error
    return ram, None


def _ram_reasons(vm: VM, snapshot: Snapshot, facts: Facts) -> tuple[Reason, ...]:
    here = {device.device: device for device in facts.devices}
    head = images.vm_state_head(here[snapshot.vmstate_device].file, snapshot.tag)
    return tuple(ram_reasons(vm, snapshot, head))
