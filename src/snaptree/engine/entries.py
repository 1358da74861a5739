"""Which entries of an image are a given snapshot.  Not for: reading images.

A tag of ours holds an id that nothing else has, so whatever has the tag is the snapshot.  An adopted snapshot keeps the
tag that others gave it, and others can give that again; so there date and VM clock have to be the recorded ones too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from ..model.names import printable
from ..model.reason import Reason
from ..model.snapshot import Snapshot
from ..model.tags import parse_tag

ONE_MOMENT_NS = 10**9
"""QEMU writes one date onto all devices; what goes from image to image, as qemu-img, does so milliseconds apart."""


class Entry(Protocol):
    """A snapshot in an image, as the qcow2 reader or QEMU tells it."""

    @property
    def qemu_id(self) -> str:
        """QEMU's own id, unique in the image only."""

    @property
    def tag(self) -> str:
        """What QEMU shows as the name."""

    @property
    def date_ns(self) -> int:
        """When it was taken, nanoseconds since the epoch."""

    @property
    def vm_clock_ns(self) -> int:
        """The VM's clock, nanoseconds."""

    @property
    def vm_state_size(self) -> int:
        """Bytes of VM state; 0 where another image holds it."""


E = TypeVar("E", bound=Entry)


def is_adopted(snapshot: Snapshot) -> bool:
    """Say whether others took the snapshot: its tag is not of our form."""
    return parse_tag(snapshot.tag) is None


def is_of(snapshot: Snapshot, entry: Entry) -> bool:
    """Say whether an entry is a part of the snapshot."""
    if entry.tag != snapshot.tag:
        return False
    if not is_adopted(snapshot):
        return True
    slack = ONE_MOMENT_NS if snapshot.memory == "none" else 0
    return entry.vm_clock_ns == snapshot.vm_clock_ns and abs(entry.date_ns - snapshot.created_ns) <= slack


def strangers(snapshot: Snapshot, table: Iterable[E]) -> list[E]:
    """Return the entries that have a snapshot's tag and are not of it."""
    return [entry for entry in table if entry.tag == snapshot.tag and not is_of(snapshot, entry)]


def tag_is_id(device: str, tag: str, table: Iterable[Entry]) -> Iterator[Reason]:
    """Yield the reason where QEMU would take a tag for the id of another snapshot.

    It looks for a snapshot whose id is the tag before it looks for the tag (``find_snapshot_by_id_or_name`` in QEMU's
    block/qcow2-snapshot.c).
    """
    other = next((entry for entry in table if entry.qemu_id == tag and entry.tag != tag), None)
    if other is not None:
        yield Reason(
            "tag-is-id",
            f"QEMU would load another snapshot on {device}: {printable(other.tag, 255)} has the id {printable(tag)}"
            f" there, and QEMU takes the tag {printable(tag)} for that.",
            f"Load another snapshot; or delete {printable(other.tag, 255)}, if nobody needs it.",
            device,
        )
