"""What a check finds, as values and as JSON: findings, the matrix of snapshots and devices.  Not for: finding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from ..model.names import printable
from ..model.snapshot import iso_time

Severity = Literal["damage", "note"]

CODES: dict[str, tuple[Severity, str]] = {
    "missing-on-device": ("damage", "A device does not hold a snapshot that it must hold."),
    "tag-twice": ("damage", "An image has the same tag more than once: which one QEMU would load is chance."),
    "numeric-tag": ("damage", "A tag is a number, which QEMU takes for an id: it loads or deletes another snapshot."),
    "ids-differ": ("damage", "The same id means different states on different devices."),
    "clock-differs": (
        "damage",
        "The devices' parts of a snapshot with RAM are of different moments of the VM's clock.",
    ),
    "date-differs": ("damage", "The devices' parts of a snapshot were taken at different times."),
    "not-on-any-disk": ("damage", "The catalog has a snapshot that no device holds."),
    "not-in-catalog": ("damage", "The devices hold a snapshot of ours that the catalog does not know."),
    "no-vm-state": ("damage", "No device holds the VM state of a snapshot with RAM, or not the one that had it."),
    "vm-state-damaged": ("damage", "A VM state does not begin as QEMU's do."),
    "pages-missing": ("damage", "A snapshot's RAM is in the page store, and pages of it are missing there."),
    "pages-damaged": ("damage", "A snapshot's pages in the page store are not what was written."),
    "marked-inconsistent": ("damage", "A repair has marked the snapshot as not whole."),
    "image-unreadable": ("damage", "A device's image cannot be read."),
    "catalog-lost": ("damage", "The VM's catalog is not there."),
    "catalog-damaged": ("damage", "The VM's catalog is damaged."),
    "catalog-newer": ("damage", "A newer snaptree wrote the VM's catalog."),
    "lineage-damaged": ("damage", "The lineage file is lost, or lines of it cannot be read."),
    "unfinished-operation": ("damage", "An operation was cut off, and is neither finished nor undone yet."),
    "load-incomplete": ("damage", "A load failed half way: the disks don't belong together until the next load."),
    "foreign": ("note", "A whole snapshot that others took (savevm, virsh, qemu-img)."),
    "lost-parent": ("note", "A snapshot's parent is nowhere; it is shown as a root."),
    "pages-elsewhere": ("note", "A snapshot's RAM is in a page store, and only images were checked."),
    "unused-space": ("note", "The page store holds what no snapshot uses."),
}
"""Every code, with its severity and what it means; stable."""


class FindingJSON(TypedDict):
    """A finding, as ``check --json`` and ``query-snapshot-check`` print it."""

    severity: Severity
    code: str
    snapshot: str | None
    id: str | None
    device: str | None
    message: str
    remedy: str


class CellJSON(TypedDict):
    """What one device holds of one snapshot."""

    device: str
    expected: bool
    present: bool
    count: int
    qemu_id: str | None
    created: str | None
    vm_clock: int | None
    vm_state_size: int | None


class RowJSON(TypedDict):
    """One snapshot in the matrix."""

    name: str
    id: str | None
    tag: str
    foreign: bool
    memory: str
    ok: bool
    devices: list[CellJSON]


class DiskJSON(TypedDict):
    """One device in the matrix."""

    device: str
    file: str
    readable: bool


class ReportJSON(TypedDict):
    """A check's answer."""

    ok: bool
    devices: list[DiskJSON]
    snapshots: list[RowJSON]
    findings: list[FindingJSON]
    error: NotRequired[object]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    :param code: one of :data:`CODES`.
    :param message: a sentence that says what is wrong, where, with the value; outside names are printable in it.
    :param remedy: a sentence that says what to do.
    :param snapshot: the name, or the tag of a foreign one; ``None`` where it is about none.
    :param id: the snapshot's id, where it is ours.
    :param device: the device that it is about; ``None`` where it is about several or none.
    """

    code: str
    message: str
    remedy: str
    snapshot: str | None = None
    id: str | None = None
    device: str | None = None

    @property
    def severity(self) -> Severity:
        """``damage`` or ``note``."""
        return CODES[self.code][0]

    def to_json(self) -> FindingJSON:
        """Return the JSON object of the contract."""
        return {
            "severity": self.severity,
            "code": self.code,
            "snapshot": None if self.snapshot is None else said(self.snapshot),
            "id": self.id,
            "device": self.device,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """What one device holds of one snapshot.

    :param expected: a whole snapshot has a part on it.
    :param count: how often its image has the tag; more than once is damage.
    :param qemu_id: QEMU's own id of the first of them; ``date_ns``, ``vm_clock_ns`` and ``vm_state_size`` are its too.
    """

    device: str
    count: int = 0
    qemu_id: str = ""
    date_ns: int = 0
    vm_clock_ns: int = 0
    vm_state_size: int = 0
    expected: bool = True

    def to_json(self) -> CellJSON:
        """Return the JSON object of the contract."""
        here = self.count > 0
        return {
            "device": self.device,
            "expected": self.expected,
            "present": here,
            "count": self.count,
            "qemu_id": said(self.qemu_id) if here else None,
            "created": iso_time(self.date_ns) if here else None,
            "vm_clock": self.vm_clock_ns if here else None,
            "vm_state_size": self.vm_state_size if here else None,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot in the matrix.

    :param id: ``None`` for a foreign one.
    :param memory: ``full``, ``pages``, ``none``.
    :param cells: one for each device that was checked or that the snapshot recorded.
    """

    name: str
    id: str | None
    tag: str
    memory: str
    cells: tuple[Cell, ...]

    @property
    def foreign(self) -> bool:
        """Whether others took it."""
        return self.id is None


@dataclass(frozen=True, slots=True)
class DiskSeen:
    """One device that was checked."""

    device: str
    file: str
    readable: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A check's answer."""

    disks: tuple[DiskSeen, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no damage."""
        return not any(finding.severity == "damage" for finding in self.findings)

    def to_json(self) -> ReportJSON:
        """Return the JSON object of the contract."""
        bad = {(f.snapshot, f.id) for f in self.findings if f.severity == "damage"}
        return {
            "ok": self.ok,
            "devices": [{"device": d.device, "file": said(d.file), "readable": d.readable} for d in self.disks],
            "snapshots": [
                {
                    "name": said(row.name),
                    "id": row.id,
                    "tag": said(row.tag),
                    "foreign": row.foreign,
                    "memory": row.memory,
                    "ok": (row.name, row.id) not in bad,
                    "devices": [cell.to_json() for cell in row.cells],
                }
                for row in self.rows
            ],
            "findings": [finding.to_json() for finding in self.findings],
        }


def said(text: str) -> str:
    """Return text as JSON can say it: what is no UTF-8 in it is replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def shown(device: str) -> str:
    """Return a device's name, or an image's path, as people read it; quoted only where it is odd."""
    return device if device.isprintable() and len(device) < 400 else printable(device, 400)
