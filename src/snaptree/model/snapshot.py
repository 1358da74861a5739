"""A snapshot and the machine that it was taken of, as values.  Not for: where they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

Memory = Literal["full", "pages", "none"]


class DeviceJSON(TypedDict):
    """A device of a snapshot, as the contract prints it."""

    device: str
    node: str
    file: str
    present: bool
    size: int
    qemu_ids: NotRequired[list[str]]


class SnapshotJSON(TypedDict):
    """A snapshot, as QMP, ``--json`` and Python print it everywhere."""

    name: str
    id: str | None
    parent_name: str
    parent_id: str
    date: int
    created: str
    vm_clock: int
    description: str
    current: bool
    consistent: bool
    memory: Memory
    vm_state_size: int
    automatic: bool
    devices: list[DeviceJSON]
    foreign: NotRequired[bool]
    problems: NotRequired[list[str]]
    children: NotRequired[list[SnapshotJSON]]


@dataclass(frozen=True, slots=True)
class Device:
    """A block device as a snapshot recorded it.

    :param device: QEMU's name for it: the drive's id, else the qdev id, else the node name, else the qdev path.
    :param node: the qcow2 node's name at that moment; generated ones (``#block123``) change at every start.
    :param file: the image's absolute path, or QEMU's filename where it is no local file.
    :param size: the virtual size in bytes.
    """

    device: str
    node: str
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What must be the same when a snapshot is loaded; empty or 0 where it is not known.

    :param machine: the versioned machine type, for example ``pc-i440fx-7.2``.
    :param ram_size: bytes of RAM, hotplugged RAM included.
    :param cpu: the CPU's type and a digest of its features.
    :param cpus: the number of virtual CPUs that are there.
    :param devices: the device types that are plugged, sorted, each as ``TYPE`` or ``ID=TYPE``.
    """

    machine: str = ""
    ram_size: int = 0
    cpu: str = ""
    cpus: int = 0
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of a whole VM.

    :param id: its UUID, the same on all devices.
    :param name: what people call it now; unique in the VM.
    :param parent_id: the id of the snapshot that it descends from now; nil for a root.
    :param tag: what the images hold; never changes.
    :param created_ns: UTC, nanoseconds since the epoch, as the images hold it.
    :param vm_clock_ns: the VM's clock, nanoseconds, as the images hold it.
    :param vm_state_size: bytes of VM state in the image of ``vmstate_device``.
    :param vmstate_device: the device whose image holds the VM state.
    :param devices: every device that it holds.
    :param machine: what the VM was like.
    :param memory_why: why RAM is kept in this way, for people.
    :param flaw: why it is known not to be whole; empty where nothing is known against it.
    """

    id: str
    name: str
    parent_id: str
    tag: str
    created_ns: int
    vm_clock_ns: int
    memory: Memory
    vm_state_size: int
    vmstate_device: str
    devices: tuple[Device, ...]
    machine: Machine = field(default_factory=Machine)
    description: str = ""
    automatic: bool = False
    flaw: str = ""
    memory_why: str = ""


def date_integer(created_ns: int) -> int:
    """Return the integer YYYYMMDDHHMMSS in UTC."""
    return int(datetime.fromtimestamp(created_ns // 10**9, UTC).strftime("%Y%m%d%H%M%S"))


def iso_time(ns: int) -> str:
    """Return ISO 8601 in UTC with milliseconds, ending in Z."""
    moment = datetime.fromtimestamp(ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 10**6 % 1000:03d}Z"


def snapshot_json(
    snapshot: Snapshot, *, parent_name: str, current: bool, consistent: bool, present: frozenset[str] | set[str]
) -> SnapshotJSON:
    """Return the JSON object of the contract.

    :param present: the devices (their ``device``) whose images hold the snapshot at this moment.
    """
    return {
        "name": snapshot.name,
        "id": snapshot.id,
        "parent_name": parent_name,
        "parent_id": snapshot.parent_id,
        "date": date_integer(snapshot.created_ns),
        "created": iso_time(snapshot.created_ns),
        "vm_clock": snapshot.vm_clock_ns,
        "description": snapshot.description,
        "current": current,
        "consistent": consistent,
        "memory": snapshot.memory,
        "vm_state_size": snapshot.vm_state_size,
        "automatic": snapshot.automatic,
        "devices": [
            {"device": d.device, "node": d.node, "file": d.file, "present": d.device in present, "size": d.size}
            for d in snapshot.devices
        ],
    }
