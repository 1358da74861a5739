"""Our create and load against QEMU's own snapshot-save and snapshot-load, by turns on one guest.  Not for: lists."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from .rig import rig

ROUNDS = 11
NODES = ["a", "b"]


def measure() -> Iterator[dict[str, Any]]:
    """Yield the medians in milliseconds; deletes are not measured, they keep the images alike."""
    times: dict[str, list[float]] = {"create": [], "load": [], "snapshot-save": [], "snapshot-load": []}
    pauses: list[float] = []
    with rig(linux=True) as made:
        client = made.client()
        for number in range(ROUNDS):
            name = f"s-{number}"
            times["create"].append(client.timed("snapshot-create", name=name))
            times["load"].append(client.timed("snapshot-load", name=name, keep=False))
            client.execute("snapshot-delete", name=name)
            raw = f"raw-{number}"
            times["snapshot-save"].append(client.job("snapshot-save", tag=raw, vmstate="a", devices=NODES))
            times["snapshot-load"].append(client.job("snapshot-load", tag=raw, vmstate="a", devices=NODES))
            client.job("snapshot-delete", tag=raw, devices=NODES)
        pauses += [
            entry["pause_ms"] for entry in client.execute("query-snapshot-history") if entry["action"] == "create"
        ]
        client.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    yield {
        "create_ms": medians["create"],
        "qemu_save_ms": medians["snapshot-save"],
        "create_allowed_ms": medians["snapshot-save"] * 1.1 + 50,
        "create_pause_ms": statistics.median(pauses),
        "load_ms": medians["load"],
        "qemu_load_ms": medians["snapshot-load"],
        "load_allowed_ms": medians["snapshot-load"] * 1.1 + 50,
        "rounds": ROUNDS,
    }
