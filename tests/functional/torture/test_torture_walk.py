"""Whatever dies at whatever moment, no snapshot that was reported as created is lost, or other than it was.

`make torture` is the long form.
"""

from __future__ import annotations

import os

import pytest
from tests.conftest import VMFactory
from tests.framework.torture import Torture
from tests.framework.torture_points import ELSEWHERE, RUNNING, STOPPED, UNKNOWN

KILLS = int(os.environ.get("SNAPTREE_TORTURE_KILLS", "5"))
SEED = int(os.environ.get("SNAPTREE_TORTURE_SEED", "5"))


def test_every_trace_point_is_died_at() -> None:
    assert UNKNOWN == (), "say in torture_points.py which operation comes by there"
    names = [point.name for point in (*RUNNING, *STOPPED)]
    assert len(names) == len(set(names)) > 40
    assert not ELSEWHERE & set(names)


@pytest.mark.long
@pytest.mark.parametrize(("way", "tracker"), [("pages", "userfaultfd"), ("pages", "compare"), ("full", "auto")])
def test_no_snapshot_is_lost(vm_factory: VMFactory, way: str, tracker: str) -> None:
    vm = vm_factory(pace_ms=1)
    vm.env["SNAPTREE_TRACKER"] = tracker
    Torture(vm, SEED, way=way).run(KILLS)
