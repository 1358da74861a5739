"""`snaptree list` and `snaptree tree` of 1,000 snapshots, as whole commands.  Not for: taking them quickly."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from .rig import rig

SNAPSHOTS = 1000
ROUNDS = 9


def measure() -> Iterator[dict[str, Any]]:
    """Yield the medians in milliseconds, of a VM that runs and of the same one stopped."""
    found: dict[str, Any] = {"snapshots": SNAPSHOTS, "allowed_ms": 200}
    with rig(linux=False, memory_mib=16) as made:
        client = made.client()
        client.execute("stop")
        first: list[float] = []
        last: list[float] = []
        for number in range(SNAPSHOTS):
            took = client.timed("snapshot-create", name=f"s{number:04d}", description="one of many")
            (first if number < 10 else last).append(took)
            if number % 3 == 2:
                client.execute("snapshot-load", name=f"s{number // 2:04d}", keep=False)
        client.close()
        found["first_ten_creates_ms"] = statistics.median(first)
        found["last_ten_creates_ms"] = statistics.median(last[-10:])
        for command in ("list", "tree"):
            found[f"{command}_ms"] = statistics.median(made.timed(command, "vm") for _ in range(ROUNDS))
        made.snaptree("stop", "--discard", "vm")
        for command in ("list", "tree"):
            found[f"{command}_stopped_ms"] = statistics.median(made.timed(command, "vm") for _ in range(ROUNDS))
    yield found
