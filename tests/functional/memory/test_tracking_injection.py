"""QEMU goes on working, whatever system calls are made in it."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.functional.memory.rig import start

from snaptree.memory.kernel import SYS_GETPID
from snaptree.memory.ptrace import Traced


def test_a_guest_works_on_through_a_thousand_calls(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=0)
    plain = start(vm)
    vm.wait_states(1)
    for _ in range(1000):
        with Traced(plain.pid) as traced:
            assert traced.call(SYS_GETPID) == plain.pid
    vm.wait_states(len(vm.states()) + 3)
    assert plain.qmp.execute("query-status")["status"] == "running"
    vm.assert_guest_ok()
