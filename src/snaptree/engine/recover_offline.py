"""What a killed command on a stopped VM left, found when QEMU runs already.  Not for: `run`, which settles it before.

Somebody has started a QEMU on the disks, and it holds them; so a load that was half done cannot go on, and the VM must
not run on.
"""

from __future__ import annotations

import asyncio

from ..catalog.history import Journal
from ..catalog.lineage import delete_record, load_record
from ..catalog.undo import read_undo
from . import images, tags
from .stopwatch import Stopwatch
from .vm import VM


async def recover_offline(vm: VM, journal: Journal) -> str:
    """Finish or undo a create or a load of a VM that didn't run; return what was done.

    Effects: the journal is empty; where disks don't belong together the VM is stopped and marked as broken.
    """
    clock = Stopwatch()
    plan, name = journal.plan, journal.plan["name"]
    if journal.operation == "offline-create":
        await tags.remove(vm, plan["tag"])
        await vm.append_lineage(delete_record([plan["id"]]))
        result = "failed: cut off in the middle; removed"
        await vm.disk(
            vm.catalog.ended, await vm.entry("create", name, plan["id"], journal.client, clock=clock, result=result)
        )
        return f"The create of {name}, which was cut off, has been undone."
    if journal.step != "reverting":
        result = "failed: cut off; undone"
        await vm.disk(
            vm.catalog.ended, await vm.entry("load", name, plan["id"], journal.client, clock=clock, result=result)
        )
        return f"The load of {name}, which was cut off, had changed nothing."
    files = [vm.attached[device].file for device in plan["devices"] if device in vm.attached]
    at = [await asyncio.to_thread(images.at_snapshot, file, plan["tag"]) for file in files]
    if len(files) == len(plan["devices"]) and all(at):
        undo = read_undo(plan.get("undo"))
        await vm.append_lineage(load_record(plan["id"], undo))
        entry = await vm.entry("load", name, plan["id"], journal.client, clock=clock, result="ok, finished afterwards")
        await vm.disk(vm.catalog.loaded, plan["id"], entry, undo)
        return f"The load of {name}, which was cut off, had reverted all disks."
    await vm.session.execute("stop")
    vm.broken = (
        f"A load of {name} was cut off while the VM was stopped, and QEMU was started on these disks: not all of them"
        f" are at {name}."
    )
    result = "incomplete: cut off, and QEMU was started on the disks"
    entry = await vm.entry("load", name, plan["id"], journal.client, clock=clock, result=result)
    await vm.disk(vm.catalog.broke, vm.broken, entry)
    return vm.broken
