"""Whether a snapshot can be loaded now, and its RAM made ready to be written.  Not for: loading it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

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
    from .paged import PagedRAM
    from .putting import Putting


@dataclass(frozen=True, slots=True)
class Ready:
    """A snapshot that can be loaded, as far as could be found out while the VM runs.

    :param facts: what it was found out by; in the pause some of it is asked again, and :meth:`check` decides.
    :param ram: its RAM; ``None`` where that is in the VM state.
    """

    snapshot: Snapshot
    allow_resize: bool
    facts: Facts
    ram: Putting | None

    def check(self, now: Facts) -> None:
        """:raises NotReady: where it can't be loaded any more."""
        _refuse(self.snapshot, load_reasons(now, self.snapshot, allow_resize=self.allow_resize))


def refuse_damaged(snapshot: Snapshot, error: PageStoreError) -> NoReturn:
    """:raises NotReady: as its pages cannot be read."""
    reason = Reason("pages-damaged", error.message, "Load another snapshot; `snaptree check` says more.")
    raise _not_ready(snapshot, (reason,)) from error


def _refuse(snapshot: Snapshot, reasons: tuple[Reason, ...]) -> None:
    if reasons:
        raise _not_ready(snapshot, reasons)


def _not_ready(snapshot: Snapshot, reasons: tuple[Reason, ...]) -> NotReady:
    return NotReady(f"{snapshot.name} cannot be loaded now: {reasons[0].message}", reasons[0].remedy, reasons)


async def ready(vm: VM, snapshot: Snapshot, *, allow_resize: bool, way_back: bool = True) -> Ready:
    """Find out whether a snapshot can be loaded now, and make its RAM ready to be written.

    :param way_back: RAM is of one moment now, so a load that fails early can put it back.
    :raises NotReady: where it can't be; nothing was changed.
    """
    file = vm.attached[snapshot.vmstate_device].file if snapshot.vmstate_device in vm.attached else ""
    (facts, reasons), (ram, unreadable), head = await asyncio.gather(
        vm.facts_for(lambda facts: load_reasons(facts, snapshot, allow_resize=allow_resize)),
        _putting(vm, snapshot, way_back),
        asyncio.to_thread(images.vm_state_head, file, snapshot.tag),
    )
    if not reasons:
        here = next(device.file for device in facts.devices if device.device == snapshot.vmstate_device)
        if here != file:
            head = await asyncio.to_thread(images.vm_state_head, here, snapshot.tag)
        reasons = tuple(ram_reasons(vm, snapshot, head))
    _refuse(snapshot, reasons)
    if unreadable is not None:
        refuse_damaged(snapshot, unreadable)
    return Ready(snapshot, allow_resize, facts, ram)


async def _putting(vm: VM, snapshot: Snapshot, way_back: bool) -> tuple[Putting | None, PageStoreError | None]:
    """Read and check the pages that will be written, where RAM is kept in pages; or say why they can't be."""
    if snapshot.memory != "pages" or vm.paged is None:
        return None, None
    try:
        return await in_thread(_prepared, vm.paged, snapshot.id, way_back=way_back), None
    except PageStoreError as error:
        return None, error


def _prepared(paged: PagedRAM, id: str, *, way_back: bool) -> Putting | None:
    from .putting import Putting  # noqa: PLC0415  numpy, which is there where RAM is paged

    if not paged.fits(id):
        return None
    ram = Putting(paged, id, way_back=way_back)
    ram.prepare()
    return ram
