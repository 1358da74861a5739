"""delete: take snapshots off all devices.  Not for: choosing them."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from typing import Any

from ..catalog.history import Entry, Journal
from ..catalog.lineage import delete_record
from ..model.errors import QEMUGone, SnaptreeError
from ..model.snapshot import Snapshot
from ..model.tree import subtree
from . import tags, trace
from .create import forget_pages
from .entries import is_of
from .pinned import check_unpinned
from .stopwatch import Stopwatch
from .vm import VM


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a delete did: the snapshot that was named, and how many went."""

    snapshot: Snapshot
    count: int
    duration_ms: float


async def delete(
    vm: VM,
    *,
    name: str | None = None,
    id: str | None = None,
    children: bool = False,
    client: str,
    wait: bool = True,
) -> Deleted:
    """Delete a snapshot from all devices; with ``children`` everything below it too.

    Prerequisites: the snapshot is there.
    Effects on success: no device holds it, the catalog neither; its children go to its parent; where it was current its
    parent is.
    Effects on failure: what a device has let go is gone; the snapshot is still listed, as not consistent, and deleting
    it again goes on from there.  Where the supervisor or QEMU died, the next supervisor does that by itself.

    :raises NoSuchSnapshot, AmbiguousId, UsageError, Refused, Busy: before anything was changed.
    :raises QEMUFailed, PageStoreError: where QEMU, or the page store, could not delete.
    """
    async with vm.operation("delete", wait=wait):
        vm.require_qemu()
        clock = Stopwatch()
        snapshot = await vm.disk(vm.catalog.find, name=name, id=id)
        doomed = [snapshot]
        if children:
            doomed = subtree(await vm.disk(vm.catalog.snapshots), snapshot.id)
        await delete_held(vm, snapshot, doomed, client=client, clock=clock)
        return Deleted(snapshot, len(doomed), clock.duration_ms())


async def delete_held(vm: VM, snapshot: Snapshot, doomed: list[Snapshot], *, client: str, clock: Stopwatch) -> None:
    """As :func:`delete`, for a caller who holds the VM's lock.

    :param snapshot: the one that is named where it fails.
    :param doomed: all that go, children first.
    """
    await asyncio.to_thread(check_unpinned, vm.place, doomed)
    plan = {"ids": [s.id for s in doomed]}
    await vm.disk(vm.catalog.begin, Journal("delete", time.time_ns(), client, plan))
    trace.point("delete.begun")
    try:
        await perform(vm, doomed, client, clock)
    except QEMUGone:
        raise  # the journal stays, and the delete rolls forward
    except SnaptreeError as error:
        entry = await vm.entry("delete", snapshot.name, snapshot.id, client, clock=clock, result=f"failed: {error}")
        await vm.disk(vm.catalog.ended, entry)
        _publish_failure(vm, snapshot, clock, error)
        raise


async def perform(vm: VM, doomed: list[Snapshot], client: str, clock: Stopwatch) -> None:
    """Delete snapshots one after the other, children first; each is gone from the catalog before the next begins.

    :raises QEMUFailed, PageStoreError: where QEMU, or the page store, could not; those before it are gone.
    """
    for snapshot in doomed:
        await tags.remove(vm, snapshot.tag, functools.partial(is_of, snapshot))
        trace.point("delete.removed")
        await forget_pages(vm, snapshot.id)
        trace.point("delete.freed")
        entry = await vm.entry("delete", snapshot.name, snapshot.id, client, clock=clock)
        await _forget(vm, snapshot, entry, last=snapshot is doomed[-1])
        data: dict[str, Any] = {"name": snapshot.name, "id": snapshot.id, "duration_ms": entry.duration_ms}
        vm.publish("SNAPSHOT_DELETED", data)
    trace.point("delete.done")


async def _forget(vm: VM, snapshot: Snapshot, entry: Entry, *, last: bool) -> None:
    await vm.append_lineage(delete_record([snapshot.id]))
    await vm.disk(vm.catalog.deleted, [snapshot.id], [entry], last=last)


def _publish_failure(vm: VM, snapshot: Snapshot, clock: Stopwatch, error: SnaptreeError) -> None:
    vm.publish(
        "SNAPSHOT_FAILED",
        {
            "name": snapshot.name,
            "id": snapshot.id,
            "duration_ms": clock.duration_ms(),
            "operation": "delete",
            "error": str(error),
        },
    )
