"""What a check says of the page store: pages of a snapshot that are missing or damaged, unused space.

Not for: snapshots of the full way, whose RAM is in the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..model.errors import PageStoreError
from ..model.snapshot import Snapshot
from ..model.tags import parse_tag
from ..places.places import VMPlace
from . import trace
from .check import Book
from .check_findings import Finding
from .check_images import Examined
from .check_parts import DELETE_IT

if TYPE_CHECKING:
    from ..memory.store import PageStore
    from ..memory.verify import Damage

PAGE_BYTES = 4096


def kept_in_pages(book: Book, disks: Iterable[Examined]) -> dict[str, str]:
    """Return id and name of every snapshot whose RAM must be in the page store.

    Where the catalog is lost, the lineage and the images say which.
    """
    if book.catalog_problem is None:
        return {s.id: s.name for s in book.snapshots if s.memory == "pages"}
    found = {}
    for disk in disks:
        for entry, kind in zip(disk.table or (), disk.kinds, strict=False):
            tag = parse_tag(entry.tag)
            if kind == "pages" and tag is not None:
                found[tag.id] = tag.name
    known = book.lineage.snapshots if book.lineage is not None else ()
    return found | {s.id: s.name for s in known if s.memory == "pages"}


def book_with_pages(book: Book, place: VMPlace, disks: Sequence[Examined], *, fast: bool, unused: bool = True) -> Book:
    """Return the book with what is wrong with the pages of its snapshots, and with unused space as a finding.

    :param fast: pages are looked for, their content is not read.
    """
    wanted = kept_in_pages(book, disks)
    if not place.pages.is_dir():
        none: dict[str, tuple[Finding, ...]] = {
            id: (_missing(name, id, "There is no page store."),) for id, name in wanted.items()
        }
        return replace(book, pages=none)
    from ..memory.store import PageStore  # noqa: PLC0415  numpy, which a VM without a store need not wait for
    from ..memory.verify import Seen  # noqa: PLC0415

    try:
        store = PageStore.open(place.pages, clean=False)
    except PageStoreError as error:
        problem: dict[str, tuple[Finding, ...]] = {
            id: (_missing(name, id, error.message),) for id, name in wanted.items()
        }
        return replace(book, pages=problem)
    try:
        seen = Seen()
        pages = {id: _verified(store, id, name, content=not fast, seen=seen) for id, name in wanted.items()}
        stored = frozenset(store.ids())
        known = book.catalog_problem is None and book.journal is None  # else nobody can say what is needless now
        more = _unused(store, place, needless(stored, book.snapshots, disks) if known else ()) if unused else ()
        return replace(book, pages=pages, more=(*book.more, *more), stored=stored)
    finally:
        store.close()


def pages_are_there(place: VMPlace, id: str) -> bool:
    """Say whether the page store has all pages of a snapshot; their content is not read."""
    if not place.pages.is_dir():
        return False
    from ..memory.store import PageStore  # noqa: PLC0415  numpy

    try:
        store = PageStore.open(place.pages, clean=False)
    except PageStoreError:
        return False
    try:
        return store.has(id) and not store.verify(id, content=False)
    except PageStoreError:
        return False
    finally:
        store.close()


def free_pages(place: VMPlace, ids: Iterable[str]) -> None:
    """Take snapshots out of the page store, and what a crash has left in it.

    Prerequisites: nobody else uses the store.
    :raises PageStoreError: where it cannot be written.
    """
    from ..memory.store import PageStore  # noqa: PLC0415  numpy

    store = PageStore.open(place.pages, clean=True, trace=trace.point)
    try:
        for id in ids:
            store.delete(id)
            trace.point("repair.freed")
    finally:
        store.close()


def by_code(name: str, id: str, damages: Iterable[Damage]) -> tuple[Finding, ...]:
    """Return a finding for missing pages and one for damaged ones, however many there are."""
    found: Mapping[str, list[Damage]] = {"pages-missing": [], "pages-damaged": []}
    for damage in damages:
        found["pages-missing" if "missing" in damage.sentence else "pages-damaged"].append(damage)
    return tuple(Finding(code, _words(name, of), DELETE_IT, name, id) for code, of in found.items() if of)


def _words(name: str, damages: Sequence[Damage]) -> str:
    first = damages[0]
    pages = sum(damage.count for damage in damages)
    how_many = f"{pages} pages of the RAM" if pages else "The RAM"
    more = f" And {len(damages) - 1} more such." if len(damages) > 1 else ""
    return f"{how_many} of {name} cannot be read back: {first.sentence} ({first.file}){more}".rstrip(".") + "."


def _verified(store: PageStore, id: str, name: str, *, content: bool, seen: object) -> tuple[Finding, ...]:
    from ..memory.verify import Seen, verify  # noqa: PLC0415  numpy

    assert isinstance(seen, Seen)
    try:
        return by_code(name, id, verify(store, id, content=content, seen=seen))
    except PageStoreError as error:
        return (
            Finding("pages-damaged", f"The RAM of {name} cannot be read back: {error.message}", DELETE_IT, name, id),
        )


def needless(stored: Iterable[str], known: Iterable[Snapshot], disks: Sequence[Examined]) -> tuple[str, ...]:
    """Return the ids of the store that neither catalog nor images know; none where an image cannot be read."""
    if any(disk.table is None for disk in disks):
        return ()
    tags = (parse_tag(entry.tag) for disk in disks for entry in disk.table or ())
    return tuple(sorted(set(stored) - {s.id for s in known} - {tag.id for tag in tags if tag is not None}))


def _unused(store: PageStore, place: VMPlace, ids: Sequence[str]) -> tuple[Finding, ...]:
    found = []
    try:
        pages = sum(unused.pages for unused in store.unreferenced())
    except PageStoreError:
        pages = 0  # what is damaged is named with its snapshot
    if pages:
        found.append(f"{pages * PAGE_BYTES >> 10} KiB that no snapshot uses")
    if ids:
        found.append(f"the pages of {', '.join(ids)}, which neither catalog nor images know")
    if not found:
        return ()
    said = f"The page store {place.pages} holds {' and '.join(found)}."
    remedy = f"`snaptree repair {place.name}` gives it back." if ids else "Nothing has to be done."
    return (Finding("unused-space", said, remedy),)


def _missing(name: str, id: str, why: str) -> Finding:
    return Finding("pages-missing", f"The RAM of {name} cannot be read back: {why}", DELETE_IT, name, id)
