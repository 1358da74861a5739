"""The three checks: of a VM under care, of one at rest, of bare images.  Not for: judging, which is pure.

None changes anything, and none needs QEMU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..model.errors import UsageError
from ..model.names import printable
from ..model.snapshot import Snapshot
from ..places.places import VMPlace
from .check import Book, check
from .check_findings import Report
from .check_pages import book_with_pages
from .check_read import book_of, devices_of, examine, examine_image, read_book
from .offline import disks_of
from .vm import VM


def check_files(files: Sequence[str]) -> Report:
    """Check bare images, as the disks of one VM; each is called by its path.

    :raises UsageError: where an image is given twice.
    """
    paths = [str(Path(file).absolute()) for file in files]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"The image {printable(twice, 400)} is given twice.", "Give each disk of the VM once.")
    return check([examine_image(path, path) for path in paths], None)


def check_home(place: VMPlace, *, fast: bool = False) -> Report:
    """Check a VM that nobody supervises, by its home and its images.

    :param fast: the pages in the page store are looked for, their content is not read.
    :raises CatalogError: where the home cannot be read and that is no damage (permissions).
    """
    book = read_book(place)
    disks = examine(devices_of(recorded(book), disks_of(place)))
    return check(disks, book_with_pages(book, place, disks, fast=fast))


async def check_vm(vm: VM, *, fast: bool = False, wait: bool = True) -> Report:
    """Check a VM under care; operations wait while its catalog and its images are read, not while its pages are.

    :param fast: as of :func:`check_home`.
    :raises Busy: where an operation is under way and ``wait`` is false.
    """
    async with vm.operation("check", wait=wait):
        book = await vm.disk(book_of, vm.place, vm.catalog)
        if vm.tables and not vm.session.closed.is_set():
            await vm.devices()  # what QEMU told before may be no longer so
        attached, tables = dict(vm.attached), dict(vm.tables)
        disks = await asyncio.to_thread(examine, devices_of(book.snapshots, attached), tables)
        # Unused space can be told only while nobody writes to the store.
        whole = await asyncio.to_thread(book_with_pages, book, vm.place, disks, fast=True)
    if not fast:
        read = await asyncio.to_thread(book_with_pages, book, vm.place, disks, fast=False, unused=False)
        # What was deleted meanwhile has no pages any more.
        still = set(await vm.disk(vm.catalog.names))
        whole = replace(whole, pages={id: found for id, found in read.pages.items() if id in still})
    return check(disks, replace(whole, broken=vm.broken or book.broken))


def recorded(book: Book) -> tuple[Snapshot, ...]:
    """Return the snapshots that are known; where the catalog is lost, those of the lineage."""
    if book.catalog_problem is None or book.lineage is None:
        return book.snapshots
    return book.lineage.snapshots
