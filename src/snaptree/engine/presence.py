"""What of each snapshot is on the devices now, and the contract's JSON of it.  Not for: deciding about a load.

Pure: the images' tables come in, values go out.  Linear in the number of snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Memory, Snapshot, SnapshotJSON, date_integer, iso_time, snapshot_json


class Entry(Protocol):
    """A snapshot in an image, as the qcow2 reader or QEMU tells it."""

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


Table = Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Disk:
    """A device and what its image holds at this moment; ``table`` is ``None`` where it can't be read."""

    device: str
    node: str
    file: str
    size: int
    table: Table | None


class Presence:
    """The tables of all devices, indexed by tag."""

    def __init__(self, disks: Iterable[Disk]) -> None:
        self.disks = tuple(disks)
        self._by_tag: dict[str, dict[str, list[Entry]]] = {disk.device: _index(disk.table or ()) for disk in self.disks}
        self._unreadable = {disk.device for disk in self.disks if disk.table is None}

    def holders(self, snapshot: Snapshot) -> set[str]:
        """Return the devices of a snapshot that hold it."""
        return {d.device for d in snapshot.devices if self._here(d.device, snapshot.tag)}

    def problems(self, snapshot: Snapshot) -> list[str]:
        """Return every sentence that says why a snapshot is not whole; empty where it is."""
        found = [snapshot.flaw] if snapshot.flaw else []
        clocks: set[int] = set()
        for recorded in snapshot.devices:
            here = self._here(recorded.device, snapshot.tag)
            if recorded.device in self._unreadable:
                found.append(f"The image of {recorded.device}, {printable(recorded.file)}, cannot be read.")
            elif not here:
                found.append(f"{recorded.device} does not hold it.")
            elif len(here) > 1:
                found.append(f"{recorded.device} holds its tag {len(here)} times.")
            clocks.update(s.vm_clock_ns for s in here)
        if snapshot.memory != "none":
            if len(clocks) > 1:
                found.append("Its devices don't agree on the VM clock.")
            state = self._here(snapshot.vmstate_device, snapshot.tag)
            if state and not any(s.vm_state_size for s in state):
                found.append(f"{snapshot.vmstate_device} holds no VM state of it.")
        return found

    def foreign(self, known: Iterable[str]) -> list[SnapshotJSON]:
        """Return what the images hold beside the tags ``known``, oldest first, each tag once."""
        tags = {tag for index in self._by_tag.values() for tag in index} - set(known)
        return sorted((self._foreign(tag) for tag in tags), key=lambda s: (s["created"], s["name"]))

    def _here(self, device: str, tag: str) -> list[Entry]:
        return self._by_tag.get(device, {}).get(tag, [])

    def _foreign(self, tag: str) -> SnapshotJSON:
        found = {disk.device: self._here(disk.device, tag) for disk in self.disks}
        everywhere = [s for here in found.values() for s in here]
        first = everywhere[0]
        state = max(s.vm_state_size for s in everywhere)
        memory: Memory = "full" if state else "none"
        one_moment = (
            len({s.vm_clock_ns for s in everywhere}) == 1 and len({s.date_ns // 10**9 for s in everywhere}) == 1
        )
        return {
            # What is no UTF-8 in it JSON cannot say; the same words as QEMU has for it.
            "name": tag.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            "id": None,
            "parent_name": "",
            "parent_id": NIL,
            "date": date_integer(first.date_ns),
            "created": iso_time(first.date_ns),
            "vm_clock": first.vm_clock_ns,
            "description": "",
            "current": False,
            "consistent": one_moment and all(len(here) == 1 for here in found.values()),
            "memory": memory,
            "vm_state_size": state,
            "automatic": False,
            "devices": [
                {
                    "device": disk.device,
                    "node": disk.node,
                    "file": disk.file,
                    "present": bool(found[disk.device]),
                    "size": disk.size,
                }
                for disk in self.disks
            ],
            "foreign": True,
        }


def _index(table: Table) -> dict[str, list[Entry]]:
    index: dict[str, list[Entry]] = {}
    for snapshot in table:
        index.setdefault(snapshot.tag, []).append(snapshot)
    return index


def describe_all(
    snapshots: Sequence[Snapshot], names: Mapping[str, str], current_id: str, presence: Presence
) -> list[SnapshotJSON]:
    """Return the contract's JSON of ``snapshots``.

    :param names: the name of every id, for the parents.
    """
    return [
        snapshot_json(
            snapshot,
            parent_name=names.get(snapshot.parent_id, ""),
            current=snapshot.id == current_id,
            consistent=not presence.problems(snapshot),
            present=presence.holders(snapshot),
        )
        for snapshot in snapshots
    ]


def describe_one(
    snapshot: Snapshot, names: Mapping[str, str], current_id: str, presence: Presence, children: Sequence[str]
) -> dict[str, Any]:
    """Return the JSON of one snapshot in full."""
    (item,) = describe_all([snapshot], names, current_id, presence)
    return {
        **item,
        "tag": snapshot.tag,
        "vmstate_device": snapshot.vmstate_device,
        "machine": asdict(snapshot.machine),
        "flaw": snapshot.flaw,
        "children": list(children),
        "problems": presence.problems(snapshot),
    }
