"""adopt, on a VM that runs.  Not for: what may be adopted."""

from __future__ import annotations

import asyncio

from ..model.snapshot import Device, Snapshot
from . import adopt as rules
from . import images
from .create import check_description
from .stopwatch import Stopwatch
from .vm import VM


async def adopt(vm: VM, tag: str, name: str, description: str = "", *, client: str, wait: bool = True) -> Snapshot:
    """Take a snapshot that others took into the tree.

    Prerequisites: every device holds ``tag`` once, of one moment; QEMU would load it by that tag; ``name`` is free.
    Effects on success: it is in catalog and lineage, as a root; the images, and what is current, stay.
    Effects on failure: none.

    :raises BadName, NameTaken, NoSuchSnapshot, Refused, NotReady, Busy: before anything was changed.
    """
    check_description(description)
    async with vm.operation("adopt", wait=wait):
        vm.require_qemu()
        clock = Stopwatch()
        async with vm.exclusive():
            parts = []
            for device in (await vm.facts()).devices:
                table = await asyncio.to_thread(images.table, device.file)
                recorded = Device(device.device, device.node, device.file, device.size)
                parts.append((recorded, device.snapshots if table is None else table))
            snapshot = await vm.disk(rules.choose, vm.catalog, tag, name, description, parts)
            await vm.disk(rules.commit, vm.catalog, vm.place, snapshot, client, clock.duration_ms())
        data = {"name": snapshot.name, "id": snapshot.id, "duration_ms": clock.duration_ms()}
        vm.publish("SNAPSHOT_ADOPTED", data)
        return snapshot
