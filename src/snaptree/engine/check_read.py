"""Reading what a check needs: tables and VM states of images, a VM's catalog and lineage.  Not for: judging it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.opening import had_catalog, has_content
from ..catalog.schema import CatalogDamaged, CatalogNewer, repair_it
from ..model.errors import ImageError, SnaptreeError
from ..model.snapshot import Device, Snapshot
from ..places.places import VMPlace
from ..qcow2.errors import DamagedImage
from ..qcow2.image import Image
from ..qcow2.table import ImageSnapshot
from ..qcow2.vmstate import IGNORE_SHARED
from .check import Book
from .check_findings import Finding
from .check_images import Examined
from .presence import Table


def devices_of(snapshots: Iterable[Snapshot], attached: Mapping[str, Device]) -> list[Device]:
    """Return the VM's devices and those that its snapshots recorded; where the VM has one now, its image counts."""
    devices = dict(attached)
    for snapshot in snapshots:
        for device in snapshot.devices:
            devices.setdefault(device.device, device)
    return list(devices.values())


def examine(devices: Iterable[Device], tables: Mapping[str, Table] | None = None) -> list[Examined]:
    """Read the images of devices.

    :param tables: what QEMU told of images that are no local files, by device.
    """
    found = []
    for device in devices:
        told = (tables or {}).get(device.device)
        if told is not None and not device.file.startswith("/"):
            # What QEMU tells are such entries; they say nothing of how RAM is kept.
            found.append(
                Examined(device.device, device.file, tuple(entry for entry in told if isinstance(entry, ImageSnapshot)))
            )
        else:
            found.append(examine_image(device.device, device.file))
    return found


def examine_image(device: str, file: str) -> Examined:
    """Read one image: its table, and the head of every VM state in it."""
    try:
        with Image.open(file) as image:
            table = image.snapshots()
            return Examined(device, file, table, tuple(_kind(image, entry) for entry in table))
    except ImageError as error:
        return Examined(device, file, None, problem=error.message)


def _kind(image: Image, entry: ImageSnapshot) -> str:
    """Return how a VM state keeps RAM; see :class:`Examined`."""
    try:
        head = image.vm_state_head(entry)
    except DamagedImage as error:
        return error.message
    except ImageError:
        return ""  # encrypted, or of a QEMU that we don't know: that is no damage
    if head is None:
        return ""
    return "pages" if IGNORE_SHARED in head.capabilities else "full"


def read_book(place: VMPlace) -> Book:
    """Read what the home knows of a VM that nobody supervises; nothing is made or changed.

    :raises CatalogError: where the catalog or the lineage cannot be read and it is no damage of theirs (permissions).
    """
    lines = lineage.read(place.lineage)
    if not has_content(place):
        if not had_catalog(place):
            return Book(place.name, lineage=lines)
        lost = Finding("catalog-lost", f"The catalog {place.catalog} is lost.", repair_it(place.catalog))
        return Book(place.name, catalog_problem=lost, lineage=lines)
    try:
        catalog = Catalog.open(place.catalog)
        try:
            catalog.verify()
            return book_of(place, catalog)
        finally:
            catalog.close()
    except CatalogNewer as error:
        return Book(place.name, catalog_problem=_problem("catalog-newer", error), lineage=lines)
    except CatalogDamaged as error:
        return Book(place.name, catalog_problem=_problem("catalog-damaged", error), lineage=lines)


def book_of(place: VMPlace, catalog: Catalog) -> Book:
    """Read what an open catalog and the lineage know."""
    return Book(
        place.name,
        tuple(catalog.snapshots()),
        lineage=lineage.read(place.lineage),
        journal=catalog.journal(),
        broken=catalog.broken(),
    )


def _problem(code: str, error: SnaptreeError) -> Finding:
    return Finding(code, error.message, error.remedy)
