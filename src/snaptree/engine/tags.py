"""Where a tag is on the VM's devices now, as QEMU has it, and taking it off again.  Not for: the catalog."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.errors import QEMUFailed
from ..qemu.blockdevs import BlockDevice
from ..qemu.jobs import new_job_id, run_job
from .vm import VM


def holding(devices: Iterable[BlockDevice], tag: str) -> list[BlockDevice]:
    """Return the devices whose image has a snapshot of this tag."""
    return [device for device in devices if device.holding(tag)]


async def remove(vm: VM, tag: str) -> None:
    """Delete the snapshot ``tag`` from every device that has it.

    A tag of ours holds a UUID, so what QEMU finds by this name is it and nothing else.

    :raises QEMUFailed: where QEMU cannot; what it deleted already stays deleted.
    """
    left = holding(await vm.devices(), tag)
    while left:
        # QEMU takes one snapshot of the tag off each image at a time; a save by another monitor can have made a second.
        count = _count(left, tag)
        nodes = [device.node for device in left]
        await run_job(vm.session, "snapshot-delete", {"tag": tag, "devices": nodes}, new_job_id())
        left = holding(await vm.devices(), tag)
        if _count(left, tag) >= count:
            names = ", ".join(device.device for device in left)
            raise QEMUFailed(f"QEMU says that it deleted {tag}, and {names} still has it.")


def _count(devices: Iterable[BlockDevice], tag: str) -> int:
    return sum(len(device.holding(tag)) for device in devices)
