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
from .ramway import load_reasons as ram_reasons
from .ramway import page_store_errors
from .status import load_reasons
from .vm import VM

if TYPE_CHECKING:
    from .putting import Putting


@dataclass(frozen=True, slots=True)
class Ready:
    """A snapshot that can be loaded, as far as could be found out while the VM runs.

    :param facts: what it was found out by; in the pause some of it is asked again, and :meth:`check` decides.
    :param ram: its RAM, of which some may be left to :meth:`~.putting.Putting.read`; ``None`` where that is in the VM
        state.
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
    facts, reasons = await vm.facts_for(lambda facts: load_reasons(facts, snapshot, allow_resize=allow_resize))
    _refuse(snapshot, reasons)
    return await asyncio.to_thread(_with_ram, vm, snapshot, allow_resize, facts, way_back=way_back, later=False)


def ready_as_expected(vm: VM, snapshot: Snapshot, *, allow_resize: bool) -> Ready | None:
    """As :func:`ready`, by what is known of a VM that runs: QEMU is not asked, and a little of RAM not read.  Blocks.

    :return: ``None`` where that is not enough, or something is against it.
    :raises NotReady: where its RAM, or its VM state, is not such that it can be loaded.
    """
    facts = vm.facts_expected()
    if facts is None or load_reasons(facts, snapshot, allow_resize=allow_resize):
        return None
    return _with_ram(vm, snapshot, allow_resize, facts, way_back=True, later=True)


def _with_ram(vm: VM, snapshot: Snapshot, allow_resize: bool, facts: Facts, *, way_back: bool, later: bool) -> Ready:
    file = next(device.file for device in facts.devices if device.device == snapshot.vmstate_device)
    try:
        with page_store_errors():
            ram = _ram_of(vm, snapshot, file, way_back=way_back, later=later)
    except PageStoreError as error:
        refuse_damaged(snapshot, error)
    return Ready(snapshot, allow_resize, facts, ram)


def _ram_of(vm: VM, snapshot: Snapshot, file: str, *, way_back: bool, later: bool) -> Putting | None:
    """Read and check the pages that will be written, where RAM is kept in pages.

    :param file: the image that holds the VM state.
    :param later: as :meth:`.putting.Putting.prepare` has it.
    :raises NotReady: where RAM, or the VM state, is not such that it can be loaded.
    :raises PageStoreError, OSError: where the pages can't be read.
    """
    _refuse(snapshot, tuple(ram_reasons(vm, snapshot, images.vm_state_head(file, snapshot.tag))))
    if snapshot.memory != "pages" or vm.paged is None or not vm.paged.fits(snapshot.id):
        return None
    from .putting import Putting  # noqa: PLC0415  numpy, which is there where RAM is paged

    ram = Putting(vm.paged, snapshot.id, way_back=way_back)
    ram.prepare(later=later)
    return ram
