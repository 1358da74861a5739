"""Where a tag is on the VM's devices now, as QEMU has it, and taking it off again.  Not for: the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..model.errors import QEMUFailed
from ..model.names import printable
from ..qcow2.table import ImageSnapshot
from ..qemu.blockdevs import BlockDevice
from ..qemu.jobs import new_job_id, run_job
from .vm import VM


def holding(devices: Iterable[BlockDevice], tag: str) -> list[BlockDevice]:
    """Return the devices whose image has a snapshot of this tag."""
    return [device for device in devices if device.holding(tag)]


async def remove(vm: VM, tag: str, meant: Callable[[ImageSnapshot], bool] = lambda entry: True) -> None:
    """Delete the snapshot ``tag`` from every device that has it.

    A tag of ours holds a UUID, so what QEMU finds by this name is it and nothing else.  QEMU's job looks for the name
    alone, never for an id (``bdrv_snapshot_find`` in block/snapshot.c).

    :param meant: says whether an entry of this tag is meant: under a tag that others gave there may be another one.
    :raises QEMUFailed: where QEMU cannot, or could take another one; what it deleted already stays deleted.
    """
    left = [d for d in holding(await vm.devices(), tag) if any(meant(entry) for entry in d.holding(tag))]
    for device in left:
        if not all(meant(entry) for entry in device.holding(tag)):
            raise QEMUFailed(
                f"{device.device} holds another snapshot under the tag {printable(tag, 255)} too, and QEMU could delete"
                " that.",
                "Delete the other one by its id and name (blockdev-snapshot-delete-internal-sync) first.",
            )
    while left:
        # QEMU takes one snapshot of the tag off each image at a time; a save by another monitor can have made a second.
        count = _count(left, tag)
        nodes = [device.node for device in left]
        await run_job(vm.session, "snapshot-delete", {"job-id": new_job_id(), "tag": tag, "devices": nodes})
        left = [d for d in holding(await vm.devices(), tag) if any(meant(entry) for entry in d.holding(tag))]
        if _count(left, tag) >= count:
            names = ", ".join(device.device for device in left)
            raise QEMUFailed(f"QEMU says that it deleted {tag}, and {names} still has it.")


def _count(devices: Iterable[BlockDevice], tag: str) -> int:
    return sum(len(device.holding(tag)) for device in devices)
