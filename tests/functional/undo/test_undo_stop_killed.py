"""A stop that is cut off: what it kept is kept, and the VM stands still at it."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.faults import ending
from tests.functional.main.moments import go_on, last_counter, load
from tests.functional.undo.moves import automatic, current, started


def test_a_supervisor_that_dies_in_a_stop_leaves_what_it_kept_and_a_vm_that_goes_on(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.env["SNAPTREE_TRACE"] = "stop.kept=kill"
    started(vm)
    vm.cli("create", vm.name, "a")
    go_on(vm)
    before = last_counter(vm)
    with vm.qmp() as client:
        supervisor = client.execute("query-vm")["supervisor_pid"]
    with ending(supervisor):
        vm.cli("stop", vm.name, check=False)
    del vm.env["SNAPTREE_TRACE"]
    assert vm.cli_json("attach", "--detach", vm.name)["state"] == "paused"
    (kept,) = automatic(vm)
    assert current(vm) == kept
    with vm.qmp() as client:
        client.execute("cont")
    go_on(vm)
    load(vm, kept, range(before + 1, before + 5))
    vm.assert_guest_ok()
