"""`snaptree resume` of a stopped Linux guest, as a whole command: RAM mapped, and RAM read first.  Not for: forks."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from typing import Any

from .rig import rig

ROUNDS = int(os.environ.get("SNAPTREE_BENCH_RESUMES", "5"))
IN_USE_MIB = (512, 1024)
MORE_MIB = 256
"""What the guest has of RAM beside that."""


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds; what must be stands beside each figure."""
    found: dict[str, Any] = {}
    for in_use in IN_USE_MIB:
        with rig(linux=True, memory_mib=in_use + MORE_MIB, append=f"snaptree.fill={in_use} snaptree.pace=500") as made:
            times: dict[str, list[float]] = {"lazily": [], "eagerly": []}
            for _ in range(ROUNDS):
                for way, words in (("lazily", ()), ("eagerly", ("--eager",))):
                    made.snaptree("stop", "vm")
                    times[way].append(made.timed("resume", "--detach", *words, "vm"))
        for way, took in times.items():
            found[f"resume_{way}_{in_use}_mib_ms"] = statistics.median(took)
    yield {**found, "resume_lazily_allowed_ms": 1000.0, "resume_eagerly_allowed_ms": 4000.0}
