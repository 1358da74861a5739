"""What of each snapshot is on the devices now, and the contract's JSON of it.  Not for: deciding about a load.

Pure: the images' tables come in, values go out.  Linear in the number of snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Memory, Snapshot, SnapshotJSON, date_integer, iso_time, snapshot_json
from .entries import Entry, strangers, tag_is_id
from .foreign import foreign_reasons

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
    """The tables of all devices, indexed by tag.

    :param pages: the ids whose RAM pages are in the page store.
    """

    def __init__(self, disks: Iterable[Disk], pages: frozenset[str] = frozenset()) -> None:
        self.disks = tuple(disks)
        self._pages = pages
        self._by_tag = {disk.device: _index(disk.table or (), lambda entry: entry.tag) for disk in self.disks}
        self._ids = {disk.device: _index(disk.table or (), lambda entry: entry.qemu_id) for disk in self.disks}
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
            elif strangers(snapshot, here):
                found.append(f"{recorded.device} holds another snapshot under its tag.")
            mistaken = tag_is_id(recorded.device, snapshot.tag, self._by_id(recorded.device, snapshot.tag))
            found.extend(reason.message for reason in mistaken)
            clocks.update(s.vm_clock_ns for s in here)
        if snapshot.memory == "pages" and snapshot.id not in self._pages:
            found.append("Its RAM pages are not in the page store.")
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

    def _by_id(self, device: str, qemu_id: str) -> list[Entry]:
        return self._ids.get(device, {}).get(qemu_id, [])

    def _here(self, device: str, tag: str) -> list[Entry]:
        return self._by_tag.get(device, {}).get(tag, [])

    def _foreign(self, tag: str) -> SnapshotJSON:
        found = {disk.device: self._here(disk.device, tag) for disk in self.disks}
        everywhere = [s for here in found.values() for s in here]
        first = everywhere[0]
        state = max(s.vm_state_size for s in everywhere)
        memory: Memory = "full" if state else "none"
        # What can matter only: the whole tables would make a list of many quadratic.
        tables = {
            name: None if name in self._unreadable else [*here, *(e for e in self._by_id(name, tag) if e.tag != tag)]
            for name, here in found.items()
        }
        reasons = foreign_reasons(tag, tables)
        return {
            "name": _said(tag),
            "id": None,
            "parent_name": "",
            "parent_id": NIL,
            "date": date_integer(first.date_ns),
            "created": iso_time(first.date_ns),
            "vm_clock": first.vm_clock_ns,
            "description": "",
            "current": False,
            "consistent": not reasons,
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
                    "qemu_ids": [_said(entry.qemu_id) for entry in found[disk.device]],
                }
                for disk in self.disks
            ],
            "foreign": True,
            "problems": [reason.message for reason in reasons],
        }


def _said(text: str) -> str:
    # What is no UTF-8 in it JSON cannot say; the same words as QEMU has for it.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _index(table: Table, key: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    index: dict[str, list[Entry]] = {}
    for snapshot in table:
        index.setdefault(key(snapshot), []).append(snapshot)
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
        "memory_why": snapshot.memory_why,
        "flaw": snapshot.flaw,
        "children": list(children),
        "problems": presence.problems(snapshot),
    }
