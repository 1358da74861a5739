"""What a lost catalog held, from the lineage file and the images, or from the images alone.  Not for: writing it.

Pure.  A tag holds name and parent as they were at creation; the lineage file holds what changed since.  From the images
alone come ids, first names, first parents, dates and clocks.  A snapshot whose parent was deleted is then a root that
shows its lost parent's id, and the newer of two equal names gets a suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..catalog.catalog import Current
from ..catalog.lineage import Lineage
from ..catalog.undo import Undo
from ..model.errors import BadName
from ..model.ids import NIL
from ..model.names import NAME_MAX, check_name
from ..model.snapshot import Device, Snapshot
from ..model.tags import Tag, parse_tag
from .check_images import Examined, Images

UNKNOWN = "The catalog was made anew from the images, which don't say what is current."


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the new catalog will hold.

    :param source: ``lineage``, or ``images`` where there is no lineage file.
    :param remnants: tags of ours on some devices only that nobody knows as created.
    """

    snapshots: tuple[Snapshot, ...]
    current: Current
    source: str
    remnants: tuple[str, ...] = ()
    undo: Undo | None = None


def rebuild(lineage: Lineage | None, disks: Sequence[Examined], attached: Mapping[str, Device]) -> Rebuilt:
    """Return what a catalog that is lost held.

    :param attached: the VM's devices.
    """
    known = lineage.snapshots if lineage is not None else ()
    found, remnants = unknown(known, lineage, disks, attached)
    snapshots = tuple(sorted((*known, *found), key=lambda snapshot: snapshot.created_ns))
    source = "images" if lineage is None else "lineage"
    undo = lineage.undo if lineage is not None else None
    return Rebuilt(snapshots, _current(lineage, snapshots), source, remnants, undo)


def unknown(
    known: Sequence[Snapshot], lineage: Lineage | None, disks: Sequence[Examined], attached: Mapping[str, Device]
) -> tuple[list[Snapshot], tuple[str, ...]]:
    """Return the snapshots of ours in the images that are not among the ``known``, and the tags that are remnants.

    A tag on all devices is whole, and one that the lineage knows was whole once: both come into the tree.  One on some
    devices that is younger than a whole lineage file and that it doesn't know is what a create left that never ended.
    Where lines of the file are lost, or it is younger, nobody can know that; then the tag comes into the tree too, and
    is shown as not whole.
    """
    images = Images(disks)
    ids = {snapshot.id for snapshot in known}
    names = {snapshot.name for snapshot in known}
    recorded = {s.id: s for s in (*lineage.deleted, *lineage.snapshots)} if lineage is not None else {}
    # Where an image cannot be read, a tag may well be on all devices.
    readable = all(disk.table is not None for disk in disks)
    knows_since = lineage.began_ns if lineage is not None and not lineage.damaged and readable else None
    found: list[Snapshot] = []
    remnants: list[str] = []
    candidates = [(tag, parse_tag(tag)) for tag in images.by_tag]
    ours = [(text, tag) for text, tag in candidates if tag is not None and tag.id not in ids]
    for text, tag in sorted(ours, key=lambda item: _date(images, item[0])):
        if tag.id in {snapshot.id for snapshot in found}:
            continue  # a second tag of one id: the check says so
        record = recorded.get(tag.id)
        if record is not None and record.tag == text:
            snapshot = record
        elif knows_since is not None and _date(images, text) > knows_since and len(images.here(text)) < len(disks):
            remnants.append(text)
            continue
        else:
            snapshot = from_images(images, text, tag, attached)
        snapshot = replace(snapshot, name=free_name(snapshot.name, names))
        names.add(snapshot.name)
        found.append(snapshot)
    return found, tuple(remnants)


def from_images(images: Images, text: str, tag: Tag, attached: Mapping[str, Device]) -> Snapshot:
    """Return the snapshot that the images hold under a tag; all the VM's devices must hold it to make it whole."""
    here = images.here(text)
    holder = next((device for device, found in here.items() if found[0][0].vm_state_size), "")
    state = (here.get(holder) or next(iter(here.values())))[0][0]
    memory = images.memory(text)
    devices = []
    for device, disk in images.disks.items():
        now = attached.get(device)
        part = here.get(device)
        size = (part[0][0].disk_size if part else None) or (now.size if now else 0)
        devices.append(Device(device, now.node if now else "", disk.file, size))
    return Snapshot(
        id=tag.id,
        name=tag.name,
        parent_id=tag.parent_id,
        tag=text,
        created_ns=state.date_ns,
        vm_clock_ns=state.vm_clock_ns,
        memory="pages" if memory == "pages" else "full" if memory == "full" or state.vm_clock_ns else "none",
        vm_state_size=state.vm_state_size,
        vmstate_device=holder,
        devices=tuple(devices),
    )


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or with a number behind it the first that is free."""
    names = set(taken)
    if name not in names:
        return name
    number = 2
    while True:
        # "1e" with "-2" behind it would be a number, which no name may be; with a word it is none.
        for suffix in (f"-{number}", f"-{number}-new"):
            candidate = name[: NAME_MAX - len(suffix)] + suffix
            if candidate not in names and _possible(candidate):
                return candidate
        number += 1


def _possible(name: str) -> bool:
    try:
        check_name(name)
    except BadName:
        return False
    return True


def _date(images: Images, tag: str) -> int:
    return min(entry.date_ns for found in images.here(tag).values() for entry, _ in found)


def _current(lineage: Lineage | None, snapshots: Iterable[Snapshot]) -> Current:
    if lineage is None:
        return Current("", UNKNOWN)
    if not lineage.current:
        return Current("", "The lineage file says that it was unknown.")
    if not lineage.current_sure:
        return Current("", "Lines of the lineage file that could say what is current cannot be read.")
    if lineage.current != NIL and lineage.current not in {snapshot.id for snapshot in snapshots}:
        return Current("", "The lineage file names a snapshot as current that is nowhere.")
    return Current(lineage.current)
