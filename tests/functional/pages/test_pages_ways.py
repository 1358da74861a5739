"""Snapshots in pages and in full live in one tree, and each loads where its RAM can be put."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.main.moments import create, go_on, load


def run(vm: TestVM, memory: str = "auto", *extra: str) -> None:
    vm.cli("run", "--detach", "--memory", memory, vm.name, "--", *vm.qemu_args(*extra))
    vm.wait_states(2, vm.serial_end())


def kinds(vm: TestVM) -> dict[str, str]:
    return {s["name"]: s["memory"] for s in vm.cli_json("list", vm.name) if not s["automatic"]}


def test_both_kinds_live_in_one_tree_and_load_in_one_vm(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    run(vm, "full")
    full = create(vm, "in-full")
    vm.cli("stop", "--discard", vm.name)
    run(vm)
    go_on(vm)
    pages = create(vm, "in-pages")
    go_on(vm)
    assert kinds(vm) == {"in-full": "full", "in-pages": "pages"}
    for _ in range(2):
        load(vm, "in-full", full)
        go_on(vm)
        load(vm, "in-pages", pages)
        go_on(vm)
    vm.assert_guest_ok()


def test_a_snapshot_in_pages_is_refused_where_ram_cannot_be_written(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    run(vm)
    create(vm, "in-pages")
    vm.cli("stop", "--discard", vm.name)
    run(vm, "full")
    refused = vm.cli_json("load", "--discard", vm.name, "in-pages", check=False)
    assert refused["error"]["code"] == "not-ready"
    assert "--memory full" in refused["error"]["message"] + refused["error"]["remedy"]
    vm.assert_guest_ok()


def test_a_snapshot_of_plain_qemu_loads_where_ram_is_in_pages(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = vm.start_plain_qemu()
    vm.wait_states(3)
    last = vm.states()[-1].ram
    plain.qmp.hmp("savevm theirs")
    moment = range(last + 1, vm.states()[-1].ram + 3)
    plain.kill()
    run(vm)
    vm.cli("adopt", vm.name, "theirs", "--as", "adopted")
    go_on(vm)
    pages = create(vm, "in-pages")
    go_on(vm)
    load(vm, "adopted", moment)
    go_on(vm)
    load(vm, "in-pages", pages)
    vm.assert_guest_ok()
