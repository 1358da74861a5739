"""undo brings back where the VM was before its last load, every byte of it, and a second undo undoes the first."""

from __future__ import annotations

from array import array
from typing import Any

from tests.conftest import VMFactory
from tests.framework.ram import differing, digests
from tests.framework.vm import TestVM
from tests.functional.main.moments import go_on

Ram = dict[str, "array[int]"]


def started(vm: TestVM, *options: str) -> TestVM:
    """Run a VM whose guest counts."""
    vm.cli("run", "--detach", *options, vm.name, "--", *vm.qemu_args())
    vm.wait_states(2)
    return vm


def shown(vm: TestVM) -> list[dict[str, Any]]:
    """Return all snapshots."""
    found: list[dict[str, Any]] = vm.cli_json("list", vm.name)
    return found


def automatic(vm: TestVM) -> list[str]:
    """Return the names of the automatic snapshots, oldest first."""
    return [snapshot["name"] for snapshot in shown(vm) if snapshot["automatic"]]


def current(vm: TestVM) -> str:
    """Return the name of the current snapshot."""
    return str(vm.cli_json("list", vm.name) and next(s["name"] for s in shown(vm) if s["current"]))


def stand(vm: TestVM) -> Ram:
    """Stop the VM, and return its RAM."""
    with vm.qmp() as client:
        client.execute("stop")
    return digests(pid_of(vm))


def pid_of(vm: TestVM) -> int:
    """Return QEMU's pid."""
    (found,) = vm.cli_json("vms")
    return int(found["qemu_pid"])


def cont(vm: TestVM) -> None:
    """Continue the VM."""
    with vm.qmp() as client:
        client.execute("cont")


def test_undo_brings_back_the_moment_before_the_load_and_undo_of_undo_that_before_the_undo(
    vm_factory: VMFactory,
) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    go_on(vm)
    before = stand(vm)
    done = vm.cli_json("load", vm.name, "a")
    (kept,) = automatic(vm)
    assert done["kept"] == kept
    assert done["name"] == "a"
    there = next(s for s in shown(vm) if s["name"] == kept)
    assert (there["parent_name"], there["memory"], there["description"]) == ("a", "pages", "before the load of a")
    cont(vm)
    go_on(vm)
    second = stand(vm)
    assert differing(before, second)
    undone = vm.cli_json("undo", vm.name)
    assert (undone["name"], undone["current"]) == (kept, True)
    assert differing(before, digests(pid_of(vm))) == []
    again = vm.cli_json("undo", vm.name)
    assert again["name"] == undone["kept"]
    assert again["kept"] is None  # it had not run since the first
    assert differing(second, digests(pid_of(vm))) == []
    cont(vm)
    vm.assert_guest_ok()
    assert vm.cli_json("check", vm.name)["ok"]
