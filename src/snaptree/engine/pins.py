"""Keeping the snapshots that forks stand on.  Not for: making a fork."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog.catalog import Catalog
from ..model.snapshot import Snapshot
from ..places import forks
from ..places.places import VMPlace
from .vm import VM


async def pin(vm: VM, fork: str, *, name: str | None = None, id: str | None = None, wait: bool = True) -> Snapshot:
    """Keep a snapshot for a fork, and return it.

    Prerequisites: the fork's folder is there.
    Effects on success: the snapshot cannot be deleted until the fork is gone.  Effects on failure: none.

    :raises NoSuchSnapshot, AmbiguousId, UsageError, Busy: before anything was changed.
    """
    async with vm.operation("fork", wait=wait):
        return await vm.disk(pin_in, vm.catalog, vm.place, fork, name=name, id=id)


async def pin_all(
    vm: VM, all: Sequence[str], *, name: str | None = None, id: str | None = None, wait: bool = True
) -> Snapshot:
    """Keep a snapshot for several forks, and return it; after a crash of the host only where it is flushed then.

    Prerequisites, effects, errors: as of :func:`pin`; the caller flushes it by :func:`.forks.flush`.
    """

    def work() -> Snapshot:
        snapshot = vm.catalog.find(name=name, id=id)
        for fork in all:
            forks.pin(vm.place, fork, snapshot.id, durable=False)
        return snapshot

    async with vm.operation("fork", wait=wait):
        return await vm.disk(work)


def pin_in(catalog: Catalog, place: VMPlace, fork: str, *, name: str | None = None, id: str | None = None) -> Snapshot:
    """Keep a snapshot in an open catalog; the caller is the only one who uses it."""
    snapshot = catalog.find(name=name, id=id)
    forks.pin(place, fork, snapshot.id)
    return snapshot
