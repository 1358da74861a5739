"""What a repair will do, step by step, from what a check knows.  Not for: doing it.

Pure.  Every step can be done twice; so whatever is cut off, planning again finds what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from ..model.names import printable
from ..model.snapshot import Device, Snapshot
from .check import Book, check
from .check_findings import Report, shown
from .check_images import Examined, Images
from .check_pages import needless
from .rebuild import Rebuilt, rebuild, unknown

Kind = Literal[
    "rebuild-catalog",
    "end-operation",
    "remove-remnant",
    "add-snapshot",
    "mark-inconsistent",
    "mark-whole",
    "rewrite-lineage",
    "free-pages",
]

# What a snapshot is not whole by, and what time does not mend by itself.
_NOT_WHOLE = frozenset(
    {
        "missing-on-device",
        "not-on-any-disk",
        "tag-twice",
        "ids-differ",
        "clock-differs",
        "no-vm-state",
        "vm-state-damaged",
        "pages-missing",
        "pages-damaged",
    }
)


class StepJSON(TypedDict):
    """A step, as ``repair --json`` prints it."""

    kind: Kind
    snapshot: str | None
    id: str | None
    devices: list[str]
    removes: bool
    message: str
    done: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a repair.

    :param message: what it does, in a sentence.
    :param removes: it takes something off the images.
    :param snapshot: what :attr:`Kind` needs: the snapshot to add, mark, or mark as whole.
    :param tag: the tag to remove from ``devices``.
    :param flaw: why the snapshot is not whole.
    :param ids: whose pages to free.
    """

    kind: Kind
    message: str
    removes: bool = False
    snapshot: Snapshot | None = None
    tag: str = ""
    devices: tuple[str, ...] = ()
    flaw: str = ""
    ids: tuple[str, ...] = ()

    @property
    def needs_rest(self) -> bool:
        """Whether it writes to images or pages, which no QEMU may use then."""
        return self.kind in ("end-operation", "remove-remnant", "free-pages")

    def to_json(self, *, done: bool) -> StepJSON:
        """Return the JSON object of the contract."""
        return {
            "kind": self.kind,
            "snapshot": self.snapshot.name if self.snapshot is not None else self.tag or None,
            "id": self.snapshot.id if self.snapshot is not None else None,
            "devices": list(self.devices),
            "removes": self.removes,
            "message": self.message,
            "done": done,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, in their order.

    :param rebuilt: what the new catalog will hold, where there is such a step.
    :param report: what the check found before.
    """

    steps: tuple[Step, ...]
    rebuilt: Rebuilt | None
    report: Report


def plan(book: Book, disks: Sequence[Examined], attached: Mapping[str, Device]) -> Plan:
    """Return what is to be done.

    Prerequisites: the catalog is not of a newer version.
    """
    report = check(disks, book)
    steps: list[Step] = []
    rebuilt: Rebuilt | None = None
    if book.catalog_problem is not None:
        rebuilt = rebuild(book.lineage, disks, attached)
        steps.append(_rebuild(book, rebuilt))
        found, remnants = [], rebuilt.remnants
        book = replace(book, snapshots=rebuilt.snapshots, catalog_problem=None)
    else:
        under_way = _under_way(book)
        if book.journal is not None:
            steps.append(_end(book.journal.operation, book.journal.plan))
        new, remnants = unknown(book.snapshots, book.lineage, disks, attached)
        # What is under way ends in its own step; whether as a snapshot, the disks say then.
        found = [snapshot for snapshot in new if snapshot.id not in under_way]
        remnants = tuple(tag for tag in remnants if not any(id in tag for id in under_way))
    images = Images(disks)
    steps += [_remove(images, tag) for tag in remnants]
    steps += [_add(snapshot) for snapshot in found]
    after = replace(book, snapshots=(*book.snapshots, *found))
    steps += _marks(after, check(disks, after), _under_way(book))
    if (book.lineage is None or book.lineage.damaged) and (after.snapshots or rebuilt is not None):
        steps.append(_rewrite(book))
    ids = needless(book.stored, after.snapshots, disks) if book.journal is None else ()
    if ids:
        steps.append(_free(ids))
    return Plan(tuple(steps), rebuilt, report)


def _under_way(book: Book) -> set[str]:
    """Return the ids of the snapshots that an operation was cut off with."""
    if book.journal is None:
        return set()
    raw = book.journal.plan
    snapshot = raw.get("snapshot")
    one = [snapshot["id"]] if isinstance(snapshot, dict) and "id" in snapshot else []
    return {str(id) for id in (*one, *raw.get("ids", ()), *([raw["id"]] if "id" in raw else ()))}


def _rebuild(book: Book, rebuilt: Rebuilt) -> Step:
    assert book.catalog_problem is not None
    count = len(rebuilt.snapshots)
    snapshots = f"{count} snapshot{'' if count == 1 else 's'}"
    source = "the lineage file and the images" if rebuilt.source == "lineage" else "the images alone"
    kept = "" if book.catalog_problem.code == "catalog-lost" else " The damaged one is kept beside it."
    unknown_current = f" {rebuilt.current.why}" if not rebuilt.current.known else ""
    return Step("rebuild-catalog", f"Make the catalog anew from {source}: {snapshots}.{kept}{unknown_current}")


def _end(operation: str, raw: Mapping[str, object]) -> Step:
    snapshot = raw.get("snapshot")
    name = snapshot.get("name") if isinstance(snapshot, dict) else raw.get("name")
    what = f"{operation} of {printable(str(name), 128)}" if name else operation
    return Step("end-operation", f"Finish or undo the {what}, which was cut off.", removes=True)


def _remove(images: Images, tag: str) -> Step:
    devices = tuple(images.here(tag))
    where = ", ".join(map(shown, devices))
    return Step(
        "remove-remnant",
        f"Remove {printable(tag, 255)} from {where}: what a create left that never ended; other devices don't have it.",
        removes=True,
        tag=tag,
        devices=devices,
    )


def _add(snapshot: Snapshot) -> Step:
    return Step(
        "add-snapshot",
        f"Take {snapshot.name} ({snapshot.id}), which the images hold, into the catalog.",
        snapshot=snapshot,
    )


def _marks(book: Book, report: Report, under_way: set[str]) -> list[Step]:
    """Mark what is not whole, and take the mark off what is whole again."""
    why: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.id is not None and finding.code in _NOT_WHOLE:
            why.setdefault(finding.id, []).append(finding.message)
    unreadable = {disk.device for disk in report.disks if not disk.readable}
    steps = []
    for snapshot in book.snapshots:
        if snapshot.id in under_way or any(device.device in unreadable for device in snapshot.devices):
            continue  # nobody can say it now
        found = why.get(snapshot.id)
        if found and not snapshot.flaw:
            flaw = " ".join(found)
            message = f"Mark {snapshot.name} ({snapshot.id}) as not whole: {flaw}"
            steps.append(Step("mark-inconsistent", message, snapshot=snapshot, flaw=flaw))
        elif not found and snapshot.flaw:
            message = f"Take the mark off {snapshot.name} ({snapshot.id}), which is whole again."
            steps.append(Step("mark-whole", message, snapshot=snapshot))
    return steps


def _rewrite(book: Book) -> Step:
    kept = "" if book.lineage is None else " The damaged one is kept beside it."
    return Step("rewrite-lineage", f"Write the lineage file anew from the catalog.{kept}")


def _free(ids: tuple[str, ...]) -> Step:
    message = f"Free the pages of {', '.join(ids)} in the page store, which neither catalog nor images know."
    return Step("free-pages", message, removes=True, ids=ids)
