"""Command lines by which RAM is written where no tracker sees it, or lies where we don't look.  Not for: the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..model.names import printable
from .commandline import Option
from .ramgiven import Given, Unsuitable, members

CONFIGURED: Final = frozenset({"machine", "memory", "numa", "object"})
"""The groups of a -readconfig file that say what RAM there is."""
_UNSEEN_DEVICES: Final = ("vfio-", "vhost-user", "vhost-scsi", "vhost-vdpa", "x-pci-proxy-dev", "ivshmem")
"""Devices by which somebody outside of QEMU's page tables writes guest RAM, or reads it as it is now."""
_OTHER_MEMORY: Final = ("nvdimm", "virtio-pmem", "virtio-mem", "cxl-type3")
"""Devices with memory that outlives the VM, or that comes and goes piece by piece."""
_UNSEEN_NETS: Final = ("vhost-user", "vhost-vdpa")
_UNSEEN_DRIVERS: Final = frozenset({"nvme", "virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa"})
"""Block drivers that let hardware, or another process, write into guest RAM; the device ``nvme`` is another thing."""


def refuse_unseen(given: Given, groups: Callable[[str], frozenset[str]]) -> None:
    """:raises Unsuitable: where somebody writes RAM that no tracker sees, or RAM is where we don't look."""
    for option in given.others:
        text = printable(option.written)
        found = members(option, "type")
        match option.name:
            case "mem-path":
                raise Unsuitable(f"{text} says where RAM lies.", "Leave it out, and snaptree puts RAM into a file.")
            case "readconfig":
                configured = groups(option.value or "") & CONFIGURED
                if configured:
                    raise Unsuitable(
                        f"{text} says in its group {', '.join(sorted(configured))} what RAM there is.",
                        "Say it on the command line, by -machine, -m, -object and -numa.",
                    )
            case "netdev" | "nic" if found.get("type", "").startswith(_UNSEEN_NETS):
                raise _unseen(text)
            case "blockdev" | "drive" if _unseen_block(option):
                raise _unseen(text)
            case _:
                pass
    for option, found in given.devices:
        driver = found.get("driver", "")
        if driver.startswith(_UNSEEN_DEVICES):
            raise _unseen(printable(option.written))
        if driver.startswith(_OTHER_MEMORY):
            raise Unsuitable(
                f"{printable(option.written)} is memory that comes and goes, or outlives the VM.", "Leave it out."
            )
    for key in ("confidential-guest-support", "memory-encryption"):
        if given.machine.get(key):
            raise Unsuitable(f"The machine has {key}: its RAM cannot be read from outside.", "Leave it out.")


def _unseen(text: str) -> Unsuitable:
    return Unsuitable(f"With {text} RAM is written where no tracker sees it.", "Leave it out.")


def _unseen_block(option: Option) -> bool:
    for key, value in members(option, "driver").items():
        last = key.rpartition(".")[2]
        if (last == "driver" and value in _UNSEEN_DRIVERS) or (
            last in ("file", "filename") and value.startswith("nvme:")
        ):
            return True
    return False


def groups_of(config: str) -> frozenset[str]:
    """Return the groups of a ``-readconfig`` file, by its text: its lines ``[GROUP]`` and ``[GROUP "ID"]``."""
    return frozenset(line[1:].split("]")[0].split('"')[0].strip() for line in config.splitlines() if line[:1] == "[")
