"""Whether what others put into the images under one tag is one moment, and what QEMU would load.  Not for: our own.

Pure: the images' tables come in, reasons go out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..model.names import printable
from ..model.reason import Reason
from .entries import ONE_MOMENT_NS, Entry, tag_is_id

QEMU_NAME_BYTES = 255
"""QEMU's ``QEMUSnapshotInfo.name`` has 256 bytes; a longer tag matches nothing."""

LEAVE_IT = "It cannot be taken into the tree; it stays in the images as it is."

Tables = Mapping[str, Sequence[Entry] | None]
"""Every device of the VM with what its image holds; ``None`` where that cannot be read."""


def foreign_reasons(tag: str, tables: Tables) -> tuple[Reason, ...]:
    """Return every reason why a tag is no one moment of the whole VM, or QEMU would load something else."""
    return tuple(_reasons(tag, tables))


def _reasons(tag: str, tables: Tables) -> Iterator[Reason]:
    yield from _spelling(tag)
    found: dict[str, Sequence[Entry]] = {}
    for device, table in tables.items():
        if table is None:
            yield Reason("image-unreadable", f"The image of {device} cannot be read.", LEAVE_IT, device)
            continue
        found[device] = [entry for entry in table if entry.tag == tag]
        yield from _on_device(device, tag, found[device])
        yield from tag_is_id(device, tag, table)
    yield from _one_moment(tag, found)


def _spelling(tag: str) -> Iterator[Reason]:
    shown = printable(tag)
    raw = tag.encode("utf-8", "surrogateescape")
    if not tag:
        yield Reason("tag-unusable", "The tag is empty, and QEMU cannot be asked for it.", LEAVE_IT)
    elif len(raw) > QEMU_NAME_BYTES:
        what = f"The tag {shown} has {len(raw)} bytes, of which QEMU reads {QEMU_NAME_BYTES}."
        yield Reason("tag-unusable", what, LEAVE_IT)
    elif any("\ud800" <= c <= "\udfff" for c in tag):
        yield Reason("tag-unusable", f"The tag {shown} is no UTF-8, and QEMU cannot be asked for it.", LEAVE_IT)


def _on_device(device: str, tag: str, here: Sequence[Entry]) -> Iterator[Reason]:
    if not here:
        what = (
            f"The image of {device} does not hold {printable(tag, 255)}: it would stay as it is while others go back."
        )
        yield Reason("tag-missing", what, LEAVE_IT, device)
    elif len(here) > 1:
        what = f"The image of {device} holds {len(here)} snapshots with the tag {printable(tag, 255)}."
        yield Reason("tag-twice", what, LEAVE_IT, device)


def _one_moment(tag: str, found: Mapping[str, Sequence[Entry]]) -> Iterator[Reason]:
    entries = {device: here[0] for device, here in found.items() if here}
    clocks = {device: entry.vm_clock_ns for device, entry in entries.items()}
    dates = {device: entry.date_ns for device, entry in entries.items()}
    with_state = [device for device, here in found.items() if any(entry.vm_state_size for entry in here)]
    shown = printable(tag, 255)
    if len(set(clocks.values())) > 1:
        each = ", ".join(f"{device} {clock / 10**9:.3f} s" for device, clock in clocks.items())
        what = f"The devices' parts of {shown} are of different moments of the VM's clock: {each}."
        yield Reason("vm-clock", what, LEAVE_IT)
    elif dates and max(dates.values()) - min(dates.values()) > (0 if with_state else ONE_MOMENT_NS):
        apart = (max(dates.values()) - min(dates.values())) / 10**9
        what = f"The devices' parts of {shown} were taken {apart:.3f} s apart."
        yield Reason("dates-differ", what, LEAVE_IT)
    if len(with_state) > 1:
        what = f"Each of {', '.join(with_state)} holds a VM state under the tag {shown}; a snapshot has one."
        yield Reason("vm-state-twice", what, LEAVE_IT)
