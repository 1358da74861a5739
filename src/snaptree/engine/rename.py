"""rename and describe: what can be changed of a snapshot.  Not for: tags, which QEMU cannot change.

The catalog and the lineage file hold the new words; the images keep the name of the creation.
"""

from __future__ import annotations

import time

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.history import Entry
from ..model.errors import NameTaken
from ..model.names import check_name, printable
from ..model.snapshot import Snapshot
from ..places.places import VMPlace
from .create import check_description
from .stopwatch import Stopwatch
from .vm import VM


async def rename(
    vm: VM, new_name: str, *, name: str | None = None, id: str | None = None, client: str, wait: bool = True
) -> Snapshot:
    """Give a snapshot another name.

    Prerequisites: ``new_name`` is a name, and free.
    Effects on success: catalog and lineage have the new name; id and tag stay.
    Effects on failure: none.

    :raises BadName, NameTaken, NoSuchSnapshot, AmbiguousId, UsageError, Busy: before anything was changed.
    """
    check_name(new_name)
    async with vm.operation("rename", wait=wait):
        clock = Stopwatch()
        snapshot = await vm.disk(rename_in, vm.catalog, vm.place, new_name, name=name, id=id, client=client)
        data = {"name": new_name, "id": snapshot.id, "duration_ms": clock.duration_ms()}
        vm.publish("SNAPSHOT_RENAMED", data)
        return snapshot


async def describe(
    vm: VM, description: str, *, name: str | None = None, id: str | None = None, client: str, wait: bool = True
) -> Snapshot:
    """Give a snapshot another description.

    Effects on success: catalog and lineage have it.  Effects on failure: none.

    :raises NoSuchSnapshot, AmbiguousId, UsageError, Busy: before anything was changed.
    """
    async with vm.operation("describe", wait=wait):
        return await vm.disk(describe_in, vm.catalog, vm.place, description, name=name, id=id, client=client)


def rename_in(
    catalog: Catalog, place: VMPlace, new_name: str, *, name: str | None, id: str | None, client: str
) -> Snapshot:
    """Rename in an open catalog; the caller is the only one who uses it."""
    check_name(new_name)
    snapshot = catalog.find(name=name, id=id)
    if snapshot.name == new_name:
        return snapshot
    if catalog.by_name(new_name) is not None:
        raise NameTaken(f"There is a snapshot {printable(new_name)} already.", "Choose another name.")
    lineage.append(place.lineage, time.time_ns(), lineage.rename_record(snapshot.id, new_name))
    result = f"ok, was {snapshot.name}"
    catalog.renamed(
        snapshot.id, new_name, _entry(catalog, "rename", new_name, snapshot.id, client=client, result=result)
    )
    return snapshot


def describe_in(
    catalog: Catalog, place: VMPlace, description: str, *, name: str | None, id: str | None, client: str
) -> Snapshot:
    """Describe in an open catalog; the caller is the only one who uses it."""
    check_description(description)
    snapshot = catalog.find(name=name, id=id)
    lineage.append(place.lineage, time.time_ns(), lineage.describe_record(snapshot.id, description))
    catalog.described(
        snapshot.id, description, _entry(catalog, "describe", snapshot.name, snapshot.id, client=client, result="ok")
    )
    return snapshot


def _entry(catalog: Catalog, action: str, name: str, id: str, *, client: str, result: str) -> Entry:
    current = catalog.current()
    holder = catalog.by_id(current.id)
    return Entry(time.time_ns(), action, name, id, current.id, holder.name if holder else "", client, result=result)
