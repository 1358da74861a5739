"""Tables of images, catalogs and lineages as values, for the tests of check and repair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snaptree.catalog.lineage import Lineage
from snaptree.engine.check import Book
from snaptree.engine.check_images import Examined
from snaptree.model.ids import NIL
from snaptree.model.snapshot import Device, Snapshot
from snaptree.model.tags import format_tag
from snaptree.qcow2.table import ImageSnapshot

MOMENT_NS = 1_767_323_045 * 10**9
CLOCK_NS = 5 * 10**9
STATE = 4096
DEVICES = {name: Device(name, f"node-{name}", f"/vm/{name}.qcow2", 1 << 30) for name in "ab"}


def id_of(number: int) -> str:
    return f"{number:08x}-1111-4111-8111-111111111111"


def snapshot(number: int = 1, name: str = "", *, parent: str = NIL, **changes: Any) -> Snapshot:
    """Return a whole snapshot of a and b, the VM state on a; each number one second younger."""
    name, id = name or f"s{number}", id_of(number)
    made = Snapshot(
        id=id,
        name=name,
        parent_id=parent,
        tag=format_tag(name, id, parent),
        created_ns=MOMENT_NS + number * 10**9,
        vm_clock_ns=CLOCK_NS,
        memory="full",
        vm_state_size=STATE,
        vmstate_device="a",
        devices=tuple(DEVICES.values()),
    )
    return replace(made, **changes)


def entry(of: Snapshot | str, qemu_id: str = "1", **changes: Any) -> ImageSnapshot:
    """Return an entry without VM state: of a snapshot of ours, or of a foreign tag."""
    tag = of if isinstance(of, str) else of.tag
    date = MOMENT_NS if isinstance(of, str) else of.created_ns
    clock = 0 if isinstance(of, str) else of.vm_clock_ns
    return replace(ImageSnapshot(qemu_id, tag, date, clock, 0, 1 << 30, None, 0, 0), **changes)


def disk(device: str, *entries: ImageSnapshot, kinds: tuple[str, ...] | None = None, **changes: Any) -> Examined:
    """Return a device with these entries; those with VM state are of the full way unless ``kinds`` says otherwise."""
    if kinds is None:
        kinds = tuple("full" if found.vm_state_size else "" for found in entries)
    return replace(Examined(device, f"/vm/{device}.qcow2", entries, kinds), **changes)


def whole(*snapshots: Snapshot) -> list[Examined]:
    """Return a and b, with all of these snapshots on both."""
    a = [entry(s, str(n), vm_state_size=s.vm_state_size) for n, s in enumerate(snapshots, 1)]
    kinds = tuple({"full": "full", "pages": "pages", "none": ""}[s.memory] for s in snapshots)
    return [disk("a", *a, kinds=kinds), disk("b", *(entry(s, str(n)) for n, s in enumerate(snapshots, 1)))]


def book(*snapshots: Snapshot, **changes: Any) -> Book:
    values = {"lineage": Lineage(snapshots, NIL, 0, began_ns=MOMENT_NS), **changes}
    return Book("dev", snapshots, **values)
