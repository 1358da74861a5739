"""check: every kind of damage by name, from tables, catalog and lineage.  Not for: reading them.

Pure: values in, a report out.  Linear in the number of snapshots and devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..catalog.history import Journal
from ..catalog.lineage import Lineage
from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Snapshot
from ..model.tags import parse_tag
from .check_findings import DiskSeen, Finding, Report, Row, shown
from .check_foreign import foreign_findings, id_findings
from .check_images import Examined, Images
from .check_parts import DELETE_IT, clocks, damaged_states, no_state, parts, vm_state


@dataclass(frozen=True, slots=True)
class Book:
    """What we know of a VM beside its images.

    :param vm: the VM's name.
    :param catalog_problem: why the catalog can't be read; the snapshots are then unknown.
    :param lineage: ``None`` where there is no such file.
    :param pages: damage of the pages of each snapshot, by id; findings of the page store.
    :param more: findings of other stores.
    :param stored: the ids that the page store has pages of.
    :param journal: what was under way when the VM's supervisor ended.
    """

    vm: str
    snapshots: tuple[Snapshot, ...] = ()
    catalog_problem: Finding | None = None
    lineage: Lineage | None = None
    pages: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    more: tuple[Finding, ...] = ()
    stored: frozenset[str] = frozenset()
    journal: Journal | None = None
    broken: str = ""


def check(disks: Sequence[Examined], book: Book | None) -> Report:
    """Return everything that is found.

    :param book: ``None`` where bare images are checked, without any VM.
    """
    images = Images(disks)
    known = book.snapshots if book is not None else ()
    rows = [_row(images, s.name, s.id, s.tag, s.memory, devices=[d.device for d in s.devices]) for s in known]
    findings = list(_home(book)) if book is not None else []
    findings += _unreadable(images, known)
    ids = _ids(images) | {snapshot.id for snapshot in known}
    for snapshot in known:
        findings += _known(images, snapshot, ids, book)
    strangers: list[tuple[int, Row, list[Finding]]] = []
    tags = {snapshot.tag for snapshot in known}
    by_id = {snapshot.id: snapshot for snapshot in known}
    for tag in images.by_tag:
        if tag not in tags:
            strangers.append(_stranger(images, tag, ids, by_id, book))
    strangers.sort(key=lambda item: (item[0], item[1].name))
    rows += [row for _, row, _ in strangers]
    findings += [finding for _, _, found in strangers for finding in found]
    findings += id_findings(disks)
    seen = tuple(DiskSeen(disk.device, disk.file, disk.table is not None) for disk in disks)
    order = {"damage": 0, "note": 1}
    return Report(seen, tuple(rows), tuple(sorted(findings, key=lambda finding: order[finding.severity])))


def _home(book: Book) -> Iterator[Finding]:
    repair = f"`snaptree repair {book.vm}` shows what it would do, and does it after a yes."
    if book.catalog_problem is not None:
        yield book.catalog_problem
    if book.lineage is not None and book.lineage.damaged:
        yield Finding("lineage-damaged", f"{book.lineage.damaged} lines of the lineage file cannot be read.", repair)
    if book.lineage is None and (book.snapshots or book.catalog_problem is not None):
        yield Finding("lineage-damaged", "The lineage file is lost.", repair)
    if book.journal is not None:
        yield Finding(
            "unfinished-operation",
            f"The operation {book.journal.operation} was cut off, and is neither finished nor undone.",
            f"The next `snaptree run` or `attach` does that; on a stopped VM `snaptree repair {book.vm}` does.",
        )
    if book.broken:
        yield Finding("load-incomplete", book.broken, "Load a snapshot; any whole load makes the VM whole.")
    yield from book.more


def _unreadable(images: Images, known: Iterable[Snapshot]) -> Iterator[Finding]:
    for disk in images.disks.values():
        if disk.table is None:
            yield Finding(
                "image-unreadable",
                f"The image of {shown(disk.device)} cannot be read: {disk.problem}",
                "Put it back, or check it with `qemu-img check`.",
                device=disk.device,
            )


def _known(images: Images, snapshot: Snapshot, ids: set[str], book: Book | None) -> list[Finding]:
    """Check a snapshot of the catalog."""
    found: list[Finding] = []
    devices = [device.device for device in snapshot.devices]
    readable = [device for device in devices if images.readable(device)]
    if len(readable) == len(devices) and not any(images.cell(snapshot.tag, device).count for device in readable):
        found.append(
            Finding(
                "not-on-any-disk",
                f"The catalog has the snapshot {snapshot.name}, and no device holds it.",
                "Put the images back from a backup, or delete the snapshot.",
                snapshot.name,
                snapshot.id,
            )
        )
    else:
        found += parts(images, snapshot.name, snapshot.id, snapshot.tag, readable)
        if snapshot.memory != "none":
            found += clocks(images, snapshot.name, snapshot.id, snapshot.tag, recorded=snapshot.vm_clock_ns)
            found += vm_state(images, snapshot)
    found += book.pages.get(snapshot.id, ()) if book is not None else ()
    if snapshot.flaw and not any(finding.severity == "damage" for finding in found):
        found.append(
            Finding("marked-inconsistent", f"{snapshot.name}: {snapshot.flaw}", DELETE_IT, snapshot.name, snapshot.id)
        )
    found += _parent(snapshot.name, snapshot.id, snapshot.parent_id, ids)
    return found


def _stranger(
    images: Images, tag: str, ids: set[str], by_id: Mapping[str, Snapshot], book: Book | None
) -> tuple[int, Row, list[Finding]]:
    """Check a tag that the catalog doesn't know: when it was taken, its row, what is found."""
    ours = parse_tag(tag)
    devices = list(images.disks)
    name, id = (ours.name, ours.id) if ours is not None else (tag, None)
    row = _row(images, name, id, tag, images.memory(tag))
    readable = [device for device in devices if images.readable(device)]
    date = min(cell.date_ns for cell in row.cells if cell.count)
    if ours is None:
        found = list(parts(images, tag, None, tag, readable))
        found += clocks(images, tag, None, tag) if row.memory != "none" else ()
        found += foreign_findings(tag, row, whole=not found)
        return date, row, found
    found = list(parts(images, name, id, tag, readable))
    if row.memory != "none":
        found += clocks(images, name, id, tag)
        found += damaged_states(images, name, id, tag)
    elif any(cell.vm_clock_ns for cell in row.cells):
        # qemu-img, which takes disks only, writes a clock of 0; QEMU writes the VM's.
        found.append(no_state(name, ours.id, None, "No device holds its VM state."))
    if ours.id in by_id:
        other = by_id[ours.id]
        found.append(
            Finding(
                "ids-differ",
                f"The id {ours.id} stands for the tags {printable(tag, 255)} and {printable(other.tag, 255)}.",
                "Put the images back from a backup.",
                name,
                id,
            )
        )
    elif book is not None and book.catalog_problem is None:
        held = ", ".join(shown(device) for device in devices if images.cell(tag, device).count)
        found.append(
            Finding(
                "not-in-catalog",
                f"{held} {'hold' if ', ' in held else 'holds'} {printable(tag, 255)}, which the catalog doesn't know.",
                f"`snaptree repair {book.vm}` takes it up if it is whole, and names it before it removes anything.",
                name,
                id,
            )
        )
    if book is None and row.memory == "pages":
        found.append(
            Finding(
                "pages-elsewhere",
                f"The RAM of {name} is in the page store of the VM that it was taken of, not in the images.",
                "`snaptree check VM` checks it there.",
                name,
                id,
            )
        )
    found += _parent(name, ours.id, ours.parent_id, ids)
    return date, row, found


def _row(
    images: Images, name: str, id: str | None, tag: str, memory: str, *, devices: Sequence[str] | None = None
) -> Row:
    names = dict.fromkeys((*images.disks, *(devices or ())))
    cells = (images.cell(tag, device) for device in names)
    wanted = names if devices is None else set(devices)
    return Row(name, id, tag, memory, tuple(replace(cell, expected=cell.device in wanted) for cell in cells))


def _ids(images: Images) -> set[str]:
    """Return the ids of all tags of ours in the images."""
    return {tag.id for tag in map(parse_tag, images.by_tag) if tag is not None}


def _parent(name: str, id: str, parent_id: str, ids: set[str]) -> Iterator[Finding]:
    if parent_id != NIL and parent_id not in ids:
        yield Finding(
            "lost-parent",
            f"The parent of {name}, {parent_id}, is nowhere: it was deleted, or is on other images.",
            "Nothing has to be done; the snapshot is whole without it.",
            name,
            id,
        )
