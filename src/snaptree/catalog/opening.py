"""Opening a VM's catalog, and knowing whether it was lost.  Not for: making it anew, which is repair.

A new VM gets a new catalog.  A VM that had one never gets an empty one in its place: that would hide all its snapshots.
"""

from __future__ import annotations

from pathlib import Path

from ..model.errors import SnaptreeError
from ..places.files import read_json
from ..places.places import VMPlace
from .catalog import Catalog
from .schema import CatalogLost, repair_it


def open_catalog(place: VMPlace, *, durable: bool = True) -> Catalog:
    """Open the catalog of a VM; a VM that never had one gets one.

    :param durable: flush a new one to the disk; else the caller flushes :func:`files_of` it, before anything is in it.
    :raises CatalogLost: where it had one; the remedy names ``snaptree repair``.
    :raises CatalogError: where it can't be used.
    """
    if not has_content(place) and had_catalog(place):
        raise CatalogLost(f"The catalog of the VM {place.name}, {place.catalog}, is lost.", repair_it(place.catalog))
    return Catalog.open(place.catalog, create=True, durable=durable)


def files_of(place: VMPlace) -> tuple[Path, Path]:
    """Return the files that a catalog is in; one of them may be missing."""
    return place.catalog, place.catalog.with_name(place.catalog.name + "-wal")


def has_content(place: VMPlace) -> bool:
    """Say whether there is a catalog's file that is not empty."""
    # With a -wal beside it an empty file is a new catalog whose first transaction has not been folded in yet.
    return any(path.is_file() and path.stat().st_size > 0 for path in files_of(place)) and place.catalog.exists()


def had_catalog(place: VMPlace) -> bool:
    """Say whether the VM has been looked after before: its disks, or its lineage, were written down."""
    try:
        if "disks" in (read_json(place.command) or {}):
            return True
    except SnaptreeError:
        return True
    return place.lineage.exists()
