"""Where QEMU may not be traced, or a call in it is a risk, pages are compared, and the reason is told."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.functional.memory.rig import regions, start, traced_by_somebody_else

from snaptree.memory import tracker
from snaptree.memory.ptrace import TracingRefused
from snaptree.memory.ram import GuestRAM

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_a_qemu_under_a_debugger_is_compared(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=0)
    plain = start(vm)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram, traced_by_somebody_else(plain.pid):
        tracked = tracker.choose(plain.pid, ram, "auto")
        assert tracked.name == "compare"
        assert "is traced by process" in tracked.why
        with pytest.raises(TracingRefused, match="is traced by process"):
            tracker.choose(plain.pid, ram, "userfaultfd")
    vm.assert_guest_ok()


def test_qemus_own_sandbox_is_no_obstacle(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = start(vm, "-sandbox", SANDBOX)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        assert tracker.choose(plain.pid, ram, "auto").name == "userfaultfd"
    vm.assert_guest_ok()
