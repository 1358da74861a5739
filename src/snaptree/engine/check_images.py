"""The snapshot tables of all devices, for a check: by device and by tag.  Not for: reading or judging them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..qcow2.table import ImageSnapshot
from .check_findings import Cell


@dataclass(frozen=True, slots=True)
class Examined:
    """A device, and what its image holds.

    :param table: ``None`` where it can't be read; ``problem`` says why.
    :param kinds: for each entry of ``table`` what its VM state is: ``full``, ``pages``, ``""`` where it has none or
        nobody can tell, else a sentence that says how it is damaged.
    """

    device: str
    file: str
    table: tuple[ImageSnapshot, ...] | None
    kinds: tuple[str, ...] = ()
    problem: str = ""


class Images:
    """The tables of all devices, indexed by tag."""

    def __init__(self, disks: Iterable[Examined]) -> None:
        self.disks = {disk.device: disk for disk in disks}
        self.by_tag: dict[str, dict[str, list[tuple[ImageSnapshot, str]]]] = {}
        for disk in self.disks.values():
            kinds = disk.kinds or ("",) * len(disk.table or ())
            for entry, kind in zip(disk.table or (), kinds, strict=True):
                self.by_tag.setdefault(entry.tag, {}).setdefault(disk.device, []).append((entry, kind))

    def readable(self, device: str) -> bool:
        """Say whether a device's image can be read."""
        disk = self.disks.get(device)
        return disk is not None and disk.table is not None

    def here(self, tag: str) -> Mapping[str, list[tuple[ImageSnapshot, str]]]:
        """Return a tag's entries, by device."""
        return self.by_tag.get(tag, {})

    def cell(self, tag: str, device: str) -> Cell:
        """Return what a device holds of a tag."""
        found = self.here(tag).get(device, [])
        if not found:
            return Cell(device)
        entry = found[0][0]
        return Cell(device, len(found), entry.qemu_id, entry.date_ns, entry.vm_clock_ns, entry.vm_state_size)

    def memory(self, tag: str) -> str:
        """Return how a tag keeps RAM, by its VM state: ``full``, ``pages`` or ``none``."""
        everywhere = [item for found in self.here(tag).values() for item in found]
        if any(kind == "pages" for _, kind in everywhere):
            return "pages"
        return "full" if any(entry.vm_state_size for entry, _ in everywhere) else "none"
