"""`python -m tests.torture [--kills 600] [--seed N]`: the long torture, over all settings; prints the figures.

Not for: the short form, which is a test.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from dataclasses import dataclass

from tests.framework.qemus import VERSIONS, find_qemu
from tests.framework.torture import Figures, Torture
from tests.framework.torture_points import RUNNING, STOPPED
from tests.framework.vm import TestVM


@dataclass(frozen=True, slots=True)
class Setting:
    """One VM's."""

    qemu: str
    way: str
    tracker: str
    cache: str


SETTINGS = [
    Setting(version, way, tracker, cache)
    for version in VERSIONS
    for way, tracker, cache in (
        ("pages", "userfaultfd", "none"),
        ("pages", "compare", "writeback"),
        ("full", "auto", "writeback"),
    )
]


def main() -> int:
    """Run all settings; return 1 where a snapshot was lost, or anything else did not hold."""
    parser = argparse.ArgumentParser(prog="make torture", description="Kill supervisor and QEMU at random points.")
    parser.add_argument("--kills", type=int, default=600, help="so many, over all settings")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--setting", type=int, choices=range(len(SETTINGS)), help="only this one")
    args = parser.parse_args()
    figures, failed = Figures(), 0
    chosen = range(len(SETTINGS)) if args.setting is None else (args.setting,)
    began = time.monotonic()
    for number in chosen:
        setting = SETTINGS[number]
        kills = -(-args.kills // len(chosen))
        print(f"{setting}: {kills} kills; again: --setting {number} --seed {args.seed} --kills {kills}", flush=True)
        vm = TestVM(find_qemu(setting.qemu), "dev", pace_ms=1)
        vm.env["SNAPTREE_TRACKER"] = setting.tracker
        torture = Torture(vm, args.seed, way=setting.way, cache=setting.cache)
        try:
            torture.run(kills)
        except Exception:
            failed += 1
            traceback.print_exc()
            for name, text in vm.logs().items():
                print(f"---- {name}\n{text[-4000:]}", file=sys.stderr)
        finally:
            figures.add(torture.figures)
            vm.clean_up()
    _print(figures, failed, time.monotonic() - began)
    return 1 if failed else 0


def _print(figures: Figures, failed: int, seconds: float) -> None:
    missed = sorted({point.name for point in (*RUNNING, *STOPPED)} - set(figures.points))
    rows = {
        "faults injected": sum(figures.faults.values()),
        "of these kills": figures.kills,
        "by kind": ", ".join(f"{kind} {count}" for kind, count in sorted(figures.faults.items())),
        "trace points struck": f"{len(set(figures.points) - {'any moment'})}; not: {', '.join(missed) or 'none'}",
        "snapshots created": figures.created,
        "snapshots at stake, over all faults": figures.at_stake,
        "loads compared": figures.loads,
        "pages compared": figures.pages,
        "checks without damage": figures.checks,
        "settings that failed": failed,
        "snapshots lost": figures.lost,
        "seconds": round(seconds),
    }
    for name, value in rows.items():
        print(f"{name.ljust(max(map(len, rows)))}  {value}")


if __name__ == "__main__":
    sys.exit(main())
