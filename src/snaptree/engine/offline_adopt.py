"""adopt, for a VM that doesn't run.  Not for: what may be adopted."""

from __future__ import annotations

from ..places.places import VMPlace
from . import adopt as rules
from . import images
from .offline_hold import Done, client_name, stopped, stopwatch
from .offline_recover import settle


def adopt(place: VMPlace, tag: str, name: str, description: str = "", *, client: str = "", wait: bool = True) -> Done:
    """Take a snapshot that others took into the tree; see :func:`.adopt_running.adopt`.

    :raises BadName, NameTaken, NoSuchSnapshot, Refused, NotReady, VMRuns, Busy: before anything was changed.
    """
    from .create import check_description  # noqa: PLC0415  asyncio

    check_description(description)
    with stopped(place, wait=wait) as vm:
        clock = stopwatch()
        settle(vm)
        parts = [(device, images.table(device.file)) for device in vm.disks.values()]
        snapshot = rules.choose(vm.catalog, tag, name, description, parts)
        rules.commit(vm.catalog, place, snapshot, client or client_name(), clock())
        return Done(snapshot, clock())
