"""What a create, a load and a delete cost with many snapshots in a VM: our own part, and QEMU's.  Not for: lists.

QEMU writes the whole snapshot table of each image at every create and delete, so its part grows.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from .rig import Client, rig

COUNT = int(os.environ.get("SNAPTREE_BENCH_SNAPSHOTS", "1000"))
ROUNDS = 10


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds, of ten operations with few snapshots and of ten with many."""
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
            found[f"{what}_{name}_qemu_ms"] = _median(qemus for _, qemus in times[what])
            found[f"{what}_{name}_ours_ms"] = _median(whole - qemus for whole, qemus in times[what])
        found[f"{what}_ours_times"] = found[f"{what}_many_ours_ms"] / max(found[f"{what}_few_ours_ms"], 0.001)
    found["ours_times_allowed"] = 1.5
    yield found


def _ten(client: Client, prefix: str) -> dict[str, list[tuple[float, float]]]:
    """Return what each operation takes in all, and how much of it QEMU's own job, by QEMU's clock."""
    times: dict[str, list[tuple[float, float]]] = {"create": [], "load": [], "delete": []}
    for number in range(ROUNDS):
        for what, found in times.items():
            more = {"keep": False} if what == "load" else {}
            whole = client.timed(f"snapshot-{what}", name=f"{prefix}-{number}", **more)
            found.append((whole, (client.at["concluded job"] - client.at["created job"]) * 1000))
    return times


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
