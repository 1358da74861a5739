"""What a check says of snapshots that others took: whole or mixed, and what QEMU would mistake.  Not for: ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..model.names import printable
from ..model.snapshot import iso_time
from ..model.tags import parse_tag
from ..qcow2.table import ImageSnapshot
from .check_findings import Finding, Row, shown
from .check_images import Examined

ONE_MOMENT_NS = 10**9
"""QEMU writes the same date onto all devices; who goes from image to image, with qemu-img, is milliseconds apart."""

BY_ID = "Delete it by QEMU's id, or never name it without `id=`; snaptree never loads it."


def foreign_findings(tag: str, row: Row, *, whole: bool) -> Iterator[Finding]:
    """Say what is to be said of a foreign snapshot beside its missing parts.

    :param whole: every device holds it exactly once, with one clock.
    """
    dates = [cell.date_ns for cell in row.cells if cell.count]
    named = printable(tag, 255)
    if max(dates) - min(dates) >= ONE_MOMENT_NS:
        each = ", ".join(f"{shown(c.device)} {iso_time(c.date_ns)}" for c in row.cells if c.count)
        yield Finding(
            "date-differs",
            f"The devices' parts of {named} were taken at different times: {each}.",
            "Loading it would mix them; delete it where it is not wanted.",
            tag,
        )
    elif whole and not is_numeric(tag):
        kept = "with RAM" if row.memory != "none" else "disks only"
        yield Finding(
            "foreign",
            f"{named} is a whole snapshot ({kept}) that others took.",
            "`snaptree list --foreign` shows it.",
            tag,
        )


def id_findings(disks: Iterable[Examined]) -> list[Finding]:
    """Find tags that QEMU would mistake for ids, and ids that mean different foreign snapshots on different devices."""
    ids: dict[str, dict[str, ImageSnapshot]] = {}
    numeric: dict[str, list[str]] = {}
    for disk in disks:
        for entry in disk.table or ():
            ids.setdefault(entry.qemu_id, {})[disk.device] = entry
            if is_numeric(entry.tag) and disk.device not in numeric.setdefault(entry.tag, []):
                numeric[entry.tag].append(disk.device)
    return [*_numeric(numeric, ids), *_differing(ids)]


def is_numeric(tag: str) -> bool:
    """Say whether a tag could be one of QEMU's ids, which count from 1."""
    return tag.isascii() and tag.isdigit()


def _numeric(numeric: dict[str, list[str]], ids: dict[str, dict[str, ImageSnapshot]]) -> Iterator[Finding]:
    for tag, devices in numeric.items():
        others = {device: entry for device, entry in ids.get(tag, {}).items() if entry.tag != tag}
        if others:
            means = ", ".join(f"{printable(entry.tag, 255)} on {shown(d)}" for d, entry in others.items())
            message = f"QEMU takes the tag {printable(tag, 255)} for an id, and so means {means}."
        else:
            message = (
                f"QEMU takes the tag {printable(tag, 255)} for the id of another snapshot as soon as there is one."
            )
        device = devices[0] if len(devices) == 1 else None
        yield Finding("numeric-tag", message, BY_ID, tag, None, device)


def _differing(ids: dict[str, dict[str, ImageSnapshot]]) -> Iterator[Finding]:
    # Ids of QEMU count in each image by itself, so with a disk that came later they differ; tags of ours, which are
    # what we load by, cannot be mistaken for them.
    for qemu_id, entries in ids.items():
        foreign = {device: entry for device, entry in entries.items() if parse_tag(entry.tag) is None}
        if len({entry.tag for entry in foreign.values()}) > 1:
            means = ", ".join(f"{printable(entry.tag, 255)} on {shown(d)}" for d, entry in foreign.items())
            yield Finding(
                "ids-differ",
                f"QEMU's id {printable(qemu_id, 64)} means different states: {means}.",
                "Loading by this id would mix them; name them by their tags.",
            )
