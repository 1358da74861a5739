"""Deleting snapshots off the images of a VM that doesn't run.  Not for: choosing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..catalog.history import Journal
from ..catalog.lineage import delete_record
from ..model.errors import ImageError, Refused, SnaptreeError
from ..model.names import printable
from ..model.snapshot import Snapshot
from ..places.places import VMPlace
from . import trace
from .entries import is_of, strangers
from .offline_hold import Stopped
from .pinned import check_unpinned


def delete_held(
    vm: Stopped,
    snapshot: Snapshot,
    doomed: Sequence[Snapshot],
    *,
    client: str,
    clock: Callable[[], float] = lambda: 0.0,
) -> None:
    """Delete snapshots off the images of a VM that is held, and has nothing left that was cut off.

    Effects: as of :func:`.offline_verbs.delete`.

    :param snapshot: the one that is named where it fails.
    :param doomed: all that go, children first.
    """
    check_unpinned(vm.place, doomed)
    _check(vm, doomed)
    vm.catalog.begin(Journal("delete", time.time_ns(), client, {"ids": [s.id for s in doomed]}))
    trace.point("offline-delete.begun")
    try:
        perform(vm, doomed, client, clock=clock)
    except SnaptreeError as error:
        result = f"failed: {error}"
        vm.catalog.ended(vm.entry("delete", snapshot.name, snapshot.id, client, clock=clock, result=result))
        raise


def perform(vm: Stopped, doomed: Sequence[Snapshot], client: str, *, clock: Callable[[], float] = lambda: 0.0) -> None:
    """Delete snapshots one after the other, children first; each is gone from the catalog before the next begins.

    :raises ImageError: where qemu-img could not; those before it are gone.
    """
    for snapshot in doomed:
        for device in vm.disks:
            if any(is_of(snapshot, entry) for entry in vm.table(device)):
                vm.delete_tag(device, snapshot.tag)
                trace.point("offline-delete.one")
        trace.point("offline-delete.removed")
        forget_pages(vm.place, snapshot.id)
        vm.append_lineage(delete_record([snapshot.id]))
        entry = vm.entry("delete", snapshot.name, snapshot.id, client, clock=clock, result="ok")
        vm.catalog.deleted([snapshot.id], [entry], last=snapshot is doomed[-1])
    trace.point("offline-delete.done")


def forget_pages(place: VMPlace, id: str) -> None:
    """Take a snapshot's RAM out of the page store, where it is there; a second time does nothing.

    Prerequisites: the caller holds the VM's lock.

    :raises PageStoreError: where that can't be.
    """
    if not place.pages.exists():
        return
    from ..memory.store import PageStore  # noqa: PLC0415  numpy takes 100 ms

    store = PageStore.open(place.pages, clean=True, trace=trace.point)
    try:
        store.delete(id)
    finally:
        store.close()


def resume(vm: Stopped, ids: Sequence[str], client: str) -> str:
    """Finish a delete that was cut off; return what was done."""
    doomed = [snapshot for id in ids if (snapshot := vm.catalog.by_id(id)) is not None]
    if not doomed:
        vm.catalog.ended()
        return ""
    perform(vm, doomed, client)
    return f"The delete of {', '.join(snapshot.name for snapshot in doomed)}, which was cut off, has been finished."


def _check(vm: Stopped, doomed: Sequence[Snapshot]) -> None:
    """Make sure that all images can be read, and that no name stands for two snapshots.

    :raises Refused: where not; nothing was changed.
    """
    for device in vm.disks:
        try:
            table = vm.table(device)
        except ImageError as error:
            raise Refused(f"Nothing can be deleted: {error.message}", error.remedy) from error
        for snapshot in doomed:
            same = strangers(snapshot, table)
            if same and any(is_of(snapshot, entry) for entry in table):
                raise Refused(
                    f"{device} holds another snapshot under the tag {printable(snapshot.tag, 255)} of {snapshot.name},"
                    " and qemu-img cannot tell them apart.",
                    "Delete the other one by its id in QEMU (`delvm`), or this one after that.",
                )
