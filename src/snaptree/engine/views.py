"""Lists of snapshots from a catalog and the images, without QEMU.  Not for: changing anything.

These answers come also while QEMU is blocked in a long save, and for a VM that doesn't run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..catalog.catalog import Catalog
from ..model.snapshot import Device, Snapshot, SnapshotJSON
from ..places.places import VMPlace
from . import images
from .presence import Disk, Presence, Table, describe_all, describe_one


def pages_there(place: VMPlace) -> frozenset[str]:
    """Return the ids of all snapshots whose pages are in the VM's page store; whether whole is not looked at."""
    try:
        return frozenset(entry.name.removesuffix(".index") for entry in os.scandir(place.pages))
    except FileNotFoundError:
        return frozenset()


def presence_of(
    place: VMPlace,
    snapshots: Iterable[Snapshot],
    attached: Mapping[str, Device],
    tables: Mapping[str, Table] | None = None,
) -> Presence:
    """Read the images of all devices that the snapshots or the VM have.

    :param attached: the VM's devices now; they win over where a snapshot recorded its image.
    :param tables: what is known of images that can't be read as files, by device.
    """
    devices = dict(attached)
    for snapshot in snapshots:
        for device in snapshot.devices:
            devices.setdefault(device.device, device)
    disks = []
    for device in devices.values():
        table: Table | None = images.table(device.file)
        if table is None and tables is not None:
            table = tables.get(device.device)
        disks.append(Disk(device.device, device.node, device.file, device.size, table))
    return Presence(disks, pages_there(place))


def snapshots(
    catalog: Catalog,
    place: VMPlace,
    attached: Mapping[str, Device],
    tables: Mapping[str, Table] | None = None,
    *,
    foreign: bool = False,
) -> list[SnapshotJSON]:
    """Return every snapshot, oldest first; with ``foreign`` also those that are not ours."""
    known = catalog.snapshots()
    presence = presence_of(place, known, attached, tables)
    names = {snapshot.id: snapshot.name for snapshot in known}
    found = describe_all(known, names, catalog.current().id, presence)
    if foreign:
        found += presence.foreign(snapshot.tag for snapshot in known)
    return found


def snapshot(
    catalog: Catalog,
    place: VMPlace,
    attached: Mapping[str, Device],
    tables: Mapping[str, Table] | None = None,
    *,
    name: str | None = None,
    id: str | None = None,
) -> dict[str, Any]:
    """Return one snapshot in full.

    :raises NoSuchSnapshot, AmbiguousId, UsageError: where there is none such.
    """
    found = catalog.find(name=name, id=id)
    presence = presence_of(place, [found], attached, tables)
    children = [child.name for child in catalog.children(found.id)]
    return describe_one(found, catalog.names(), catalog.current().id, presence, children)


def history(catalog: Catalog, limit: int | None = None) -> list[dict[str, object]]:
    """Return history, oldest first."""
    return [entry.to_json() for entry in catalog.history(limit)]


def current(catalog: Catalog) -> dict[str, object]:
    """Return the current snapshot: ``known``, its ``name`` and ``id`` (``null`` where there is none), and ``why``."""
    now = catalog.current()
    found = catalog.by_id(now.id) if now.known else None
    return {
        "known": now.known,
        "name": found.name if found else "",
        "id": found.id if found else None,
        "why": now.why,
    }
