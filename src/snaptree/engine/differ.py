"""What differs between two snapshots of a VM: pages of RAM, ranges of disks.  Not for: how one image is compared.

All is read from page store and images directly; under a VM that runs a snapshot doesn't change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..model.errors import ImageError
from ..model.names import printable
from ..places.places import VMPlace
from ..qcow2.differ import Run, differing
from ..qcow2.image import Image
from ..qcow2.table import ImageSnapshot

if TYPE_CHECKING:
    from ..memory.pages import Layout, Pages
    from ..memory.store import PageStore

READ_PAGES: Final = 4096
"""Pages of each snapshot that are compared at a time: 16 MiB."""

_NOT_IN_PAGES: Final = {
    "full": "{} has its RAM in full, inside QEMU's own VM state.",
    "none": "{} holds disks only.",
}


@dataclass(frozen=True, slots=True)
class BlockDiff:
    """How many pages of a RAM block differ, of ``size`` bytes."""

    block: str
    size: int
    pages: int


@dataclass(frozen=True, slots=True)
class RAMDiff:
    """What differs in RAM.

    :param why: why that cannot be said; empty where it can.
    """

    blocks: tuple[BlockDiff, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class DeviceDiff:
    """What differs on a device.

    :param why: why that cannot be said; empty where it can.
    """

    device: str
    file: str
    size: int
    runs: tuple[Run, ...] = ()
    why: str = ""


def diff_ram(place: VMPlace, one: Mapping[str, Any], other: Mapping[str, Any]) -> RAMDiff:
    """Compare the RAM of two snapshots, every byte of the pages that may differ.

    :param one: a snapshot in full, as ``query-snapshot`` tells it; ``other`` likewise.
    :raises PageStoreError, PagesDamaged: where the pages cannot be read.
    """
    for snapshot in (one, other):
        if snapshot["memory"] != "pages":
            return RAMDiff(why=_NOT_IN_PAGES[snapshot["memory"]].format(snapshot["name"]))
    from ..memory.store import PageStore  # noqa: PLC0415  numpy

    store = PageStore.open(place.pages, clean=False)
    try:
        first, second = store.map(one["id"]), store.map(other["id"])
        if first.layout != second.layout:
            return RAMDiff(why="They have other RAM blocks.")
        return RAMDiff(_by_block(first.layout, _really_differing(store, one["id"], other["id"])))
    finally:
        store.close()


def diff_disks(
    one: Mapping[str, Any], other: Mapping[str, Any], files: Mapping[str, str] | None = None
) -> list[DeviceDiff]:
    """Compare every device that one of two snapshots holds.

    What a range's content is may not be known where one side reads it from the image below; it then counts as
    different.

    :param files: where each device's image is now; where the snapshots say else.
    :raises ImageError: where an image cannot be read, or is damaged.
    """
    sides = [{device["device"]: device for device in snapshot["devices"]} for snapshot in (one, other)]
    found = []
    for name in dict.fromkeys((*sides[0], *sides[1])):
        known = next(side[name] for side in sides if name in side)
        file, size = (files or {}).get(name, known["file"]), max(side[name]["size"] for side in sides if name in side)
        lacking = [s["name"] for s, side in zip((one, other), sides, strict=True) if name not in side]
        if lacking:
            found.append(DeviceDiff(name, file, size, why=f"{lacking[0]} has no such device."))
        elif not file.startswith("/"):
            found.append(DeviceDiff(name, file, size, why="It is no local file."))
        else:
            with Image.open(file) as image:
                runs = differing(image, _entry(image, one, name), _entry(image, other, name))
                found.append(DeviceDiff(name, file, size, tuple(runs)))
    return found


def _entry(image: Image, snapshot: Mapping[str, Any], device: str) -> ImageSnapshot:
    """Return the entry of a snapshot in an image."""
    entries = [entry for entry in image.snapshots() if entry.tag == snapshot["tag"]]
    if len(entries) != 1:
        raise ImageError(
            f"{device} holds {printable(snapshot['name'])} {len(entries)} times; it must be once.",
            "`snaptree check` says more.",
        )
    return entries[0]


def _really_differing(store: PageStore, one: str, other: str) -> Pages:
    """Return the pages whose content differs; the same content may lie in two places."""
    import numpy as np  # noqa: PLC0415

    from ..memory.pages import PAGE  # noqa: PLC0415

    first, second = store.map(one), store.map(other)
    candidates = first.differing(second)
    contents = [np.empty((min(READ_PAGES, len(candidates)), PAGE), np.uint8) for _ in range(2)]
    found = [np.empty(0, np.int64)]
    for start in range(0, len(candidates), READ_PAGES):
        pages = candidates[start : start + READ_PAGES]
        here, there = (content[: len(pages)] for content in contents)
        store.read(first.slots(pages), here)
        store.read(second.slots(pages), there)
        found.append(pages[(here.view(np.uint64) != there.view(np.uint64)).any(axis=1)])
    return np.concatenate(found)


def _by_block(layout: Layout, pages: Pages) -> tuple[BlockDiff, ...]:
    import numpy as np  # noqa: PLC0415

    from ..memory.pages import PAGE  # noqa: PLC0415

    found, start = [], 0
    for block in layout:
        end = start + block.size // PAGE
        first, last = np.searchsorted(pages, (start, end))
        found.append(BlockDiff(block.name, block.size, int(last - first)))
        start = end
    return tuple(found)
