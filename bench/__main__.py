"""`python -m bench [PART…]`: run the benches; a table for people, then one JSON document.  Not for: judging."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Mapping

PARTS = ("starting", "snapshots", "listing", "passing", "memory", "many", "images", "forks", "resuming")


def main(words: list[str]) -> int:
    """Run the parts that are named, or all."""
    chosen = words or [part for part in PARTS if importlib.util.find_spec(f"bench.{part}")]
    results: dict[str, object] = {"cpus": os.cpu_count(), "python": platform.python_version()}
    for part in chosen:
        if part not in PARTS:
            print(f"There is no bench {part!r}; there are: {', '.join(PARTS)}.", file=sys.stderr)
            return 2
        print(f"{part}:", flush=True)
        figures: dict[str, object] = {}
        for found in importlib.import_module(f"bench.{part}").measure():
            _print(found)
            figures |= found
        results[part] = figures
    print(json.dumps(results))
    return 0


def _print(figures: Mapping[str, object]) -> None:
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        number = f"{value:10.{1 if value >= 10 else 3}f}" if isinstance(value, float) else f"{value!s:>10}"
        print(f"  {name.ljust(width)}  {number}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
