"""What a create, a load and a delete cost with many snapshots in a VM: our own part, and QEMU's.  Not for: lists.

QEMU writes the whole snapshot table of each image at every create and delete, so its part grows.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from typing import Any

from .rig import Client, rig

COUNT = int(os.environ.get("SNAPTREE_BENCH_SNAPSHOTS", "1000"))
ROUNDS = 10
NODES = ["a", "b"]


def measure() -> dict[str, Any]:
    """Return medians in milliseconds, of ten operations with few snapshots and of ten with many."""
    found: dict[str, Any] = {"snapshots": COUNT}
    with rig(linux=False, memory_mib=256) as made:
        client = made.client()
        client.execute("snapshot-create", name="first")
        few = _ten(client, "few")
        for number in range(COUNT):
            client.execute("snapshot-create", name=f"s-{number}")
        many = _ten(client, "many")
        client.close()
    for what in ("create", "load", "delete"):
        for name, times in (("few", few), ("many", many)):
            found[f"{what}_{name}_qemu_ms"] = times[what][1]
            found[f"{what}_{name}_ours_ms"] = times[what][0] - times[what][1]
        found[f"{what}_ours_times"] = found[f"{what}_many_ours_ms"] / max(found[f"{what}_few_ours_ms"], 0.001)
    found["ours_times_allowed"] = 1.5
    return found


def _ten(client: Client, prefix: str) -> dict[str, tuple[float, float]]:
    """Return, for each operation, what it takes through us, and QEMU alone at the same work."""
    ours: dict[str, list[float]] = {"create": [], "load": [], "delete": []}
    qemus: dict[str, list[float]] = {"create": [], "load": [], "delete": []}
    for number in range(ROUNDS):
        name = f"{prefix}-{number}"
        ours["create"].append(client.timed("snapshot-create", name=name))
        ours["load"].append(client.timed("snapshot-load", name=name, keep=False))
        ours["delete"].append(client.timed("snapshot-delete", name=name))
    for number in range(ROUNDS):
        name = f"{prefix}-{number}"
        _ignore(client, True)
        client.execute("stop")
        qemus["create"].append(client.job("snapshot-save", tag=name, vmstate="a", devices=NODES))
        qemus["load"].append(client.job("snapshot-load", tag=name, vmstate="a", devices=NODES))
        client.execute("cont")
        _ignore(client, False)
        qemus["delete"].append(client.job("snapshot-delete", tag=name, devices=NODES))
    return {what: (_median(ours[what]), _median(qemus[what])) for what in ours}


def _ignore(client: Client, on: bool) -> None:
    client.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": on}])


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
