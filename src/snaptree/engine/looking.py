"""What a load finds out while QEMU stops the VM, and at once when it stands still.  Not for: changing anything.

To hand something to a thread and back costs 0.2 to 0.8 ms.  So what follows each other is done in one where it can be,
and what takes long is begun while QEMU is at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..model.errors import PageStoreError
from . import images
from .halfway import Plan
from .loadable import Ready, refuse_damaged
from .noting import Notes
from .ramway import in_thread, page_store_errors
from .vm import VM

if TYPE_CHECKING:
    from .putting import Putting

P = ParamSpec("P")
T = TypeVar("T")


class Looking:
    """The beginning of one load.

    In this order: :meth:`begin`, :meth:`look`, :meth:`disks`; and :meth:`end`, whatever happens.
    """

    def __init__(self, vm: VM, found: Ready, notes: Notes) -> None:
        self._vm = vm
        self._found = found
        self._notes = notes
        self._begun: Awaitable[None]
        self._reading: asyncio.Future[None]
        self._disks: asyncio.Future[dict[str, bool | None]]
        self._under_way: list[Awaitable[object]] = []

    def begin(self, plan: Plan) -> None:
        """Begin what QEMU is not needed for: to note durably that the load begins, and to read what RAM will be."""
        self._note_begun(plan)
        if self._found.ram is not None:
            # Not in the thread that notes, which that takes longest.
            self._reading = _in_other_thread(self._found.ram.read)
            self._under_way.append(self._reading)

    async def look(self, plan: Plan) -> None:
        """Find out how disks and RAM are.  The VM has just been stopped.

        :raises NotReady: where the snapshot's pages are damaged.
        """
        self._disks = _in_other_thread(images.disks_at, plan.files, plan.tag)
        self._under_way.append(self._disks)
        ram = self._found.ram
        if ram is None:
            return
        try:
            with page_store_errors():
                await self._reading
            await with_ram(self._vm, ram, ram.look)
        except PageStoreError as error:
            refuse_damaged(self._found.snapshot, error)

    async def begin_otherwise(self, plan: Plan) -> None:
        """Note that it is another plan.

        :raises CatalogError: where the first one could not be noted.
        """
        await self._begun
        self._note_begun(plan)

    async def disks(self) -> dict[str, bool | None]:
        """Return which devices are at the snapshot, once it is noted that the load begins.

        :raises CatalogError: where it could not be noted.
        """
        await self._begun
        return await self._disks

    async def end(self) -> None:
        """Wait until nothing of it is under way any more."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _note_begun(self, plan: Plan) -> None:
        self._begun = self._notes.begun(plan)
        self._under_way.append(self._begun)


async def with_ram(vm: VM, ram: Putting, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do what reads or writes RAM.  The VM stands still.

    What is short is done here, where nobody else can continue the VM: the event loop has nothing to do but to wait for
    it.

    :raises PageStoreError: as ``work``, and where the system lets it down.
    """
    if not (vm.sole and ram.is_short):
        await in_thread(work, *args, **kwargs)
        return
    with page_store_errors():
        work(*args, **kwargs)


def _in_other_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """Begin ``work`` outside the event loop; its end is to be awaited."""
    return asyncio.get_running_loop().run_in_executor(None, lambda: work(*args, **kwargs))
