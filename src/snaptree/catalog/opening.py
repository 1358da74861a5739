"""Opening a VM's catalog, and knowing whether it was lost.  Not for: making it anew, which is repair.

A new VM gets a new catalog.  A VM that had one never gets an empty one in its place: that would hide all its snapshots.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..model.errors import SnaptreeError
from ..places.files import read_json, sync_file
from ..places.places import VMPlace
from .catalog import Catalog
from .schema import CatalogLost, repair_it


def open_catalog(place: VMPlace, *, durable: bool = True) -> Catalog:
    """Open the catalog of a VM; a VM that never had one gets one.

    :param durable: flush a new one to the disk; else :func:`flush_catalog` does, before anything is in it.
    :raises CatalogLost: where it had one; the remedy names ``snaptree repair``.
    :raises CatalogError: where it can't be used.
    """
    if not has_content(place) and had_catalog(place):
        raise CatalogLost(f"The catalog of the VM {place.name}, {place.catalog}, is lost.", repair_it(place.catalog))
    return Catalog.open(place.catalog, create=True, durable=durable)


def flush_catalog(place: VMPlace) -> None:
    """Flush a new catalog to the disk, but for the names of its files."""
    for path in (place.catalog, _wal(place)):
        with contextlib.suppress(FileNotFoundError):
            sync_file(path)


def has_content(place: VMPlace) -> bool:
    """Say whether there is a catalog's file that is not empty."""
    # With a -wal beside it an empty file is a new catalog whose first transaction has not been folded in yet.
    files = (place.catalog, _wal(place))
    return any(path.is_file() and path.stat().st_size > 0 for path in files) and place.catalog.exists()


def had_catalog(place: VMPlace) -> bool:
    """Say whether the VM has been looked after before: its disks, or its lineage, were written down."""
    try:
        if "disks" in (read_json(place.command) or {}):
            return True
    except SnaptreeError:
        return True
    return place.lineage.exists()


def _wal(place: VMPlace) -> Path:
    return place.catalog.with_name(place.catalog.name + "-wal")
