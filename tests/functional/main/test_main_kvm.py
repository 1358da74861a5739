"""The main job under KVM, where this machine has it; where not, the test says why it does not run."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.functional.main.moments import create, go_on, load, load_running


@pytest.mark.usefixtures("kvm")
def test_under_kvm_too_a_vm_goes_back_and_forth_with_ram_and_both_disks_of_one_moment(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=20)
    vm.run(accel="kvm")
    with vm.qmp() as client:
        assert client.execute("query-kvm")["enabled"] is True
        vm.wait_states(3)
        one = create(vm, "one")
        go_on(vm)
        two = create(vm, "two")
        load_running(vm, "one", one)
        go_on(vm)
        three = create(vm, "three")
        load(vm, "two", two)
        go_on(vm)
        load(vm, "three", three)
        parents = {snapshot["name"]: snapshot["parent_name"] for snapshot in client.execute("query-snapshots")}
        assert parents == {"one": "", "two": "one", "three": "one"}
    vm.assert_guest_ok()
