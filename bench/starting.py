"""`snaptree --help` as a whole command, beside Python that does nothing.  Not for: commands that talk to a VM."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROUNDS = 21
SNAPTREE = Path(sys.executable).with_name("snaptree")


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds."""
    times: dict[str, list[float]] = {"python_ms": [], "help_ms": []}
    for _ in range(ROUNDS):
        for name, argv in (("python_ms", [sys.executable, "-c", "pass"]), ("help_ms", [str(SNAPTREE), "--help"])):
            start = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True)
            times[name].append((time.perf_counter() - start) * 1000)
    yield {**{name: statistics.median(found) for name, found in times.items()}, "help_allowed_ms": 150}
