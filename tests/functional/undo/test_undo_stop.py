"""stop keeps the last moment, and what goes on from there goes on exactly there."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import go_on, last_counter, wait_for_moment
from tests.functional.traps.safety import bare
from tests.functional.undo.moves import automatic, current, run_bare, shown, started

from snaptree.engine import images


def at_current(vm: TestVM) -> bool:
    """Say whether all disks of a stopped VM are at the current snapshot."""
    name = current(vm)
    tag = vm.cli_json("show", vm.name, name)["tag"]
    return all(images.at_snapshot(str(disk), tag) is True for disk in vm.disks)


def test_stop_keeps_the_last_moment_and_resume_goes_on_from_it(vm_factory: VMFactory) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    go_on(vm)
    before = last_counter(vm)
    said = vm.cli("stop", vm.name)
    (kept,) = automatic(vm)
    assert kept in said.stdout
    assert said.stderr == ""
    assert current(vm) == kept
    there = next(s for s in shown(vm) if s["name"] == kept)
    assert (there["parent_name"], there["description"]) == ("a", "when the VM was stopped")
    assert at_current(vm)
    moment = range(before + 1, last_counter(vm) + 3)
    since = vm.serial_end()
    vm.cli("resume", "--detach", vm.name)
    wait_for_moment(vm, moment, since)
    go_on(vm)
    vm.assert_guest_ok()
    assert automatic(vm) == [kept]


def test_stop_keeps_nothing_where_there_is_nothing_to_keep_or_that_is_asked_for(vm_factory: VMFactory) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    go_on(vm)
    assert vm.cli_json("stop", "--discard", vm.name)["kept"] is None
    assert automatic(vm) == []
    started(vm)
    with vm.qmp() as client:
        client.execute("stop")
        client.execute("snapshot-create", {"name": "b"})
    assert vm.cli_json("stop", vm.name)["kept"] is None
    assert current(vm) == "b"
    assert at_current(vm)


def test_stop_keeps_in_full_too(vm_factory: VMFactory) -> None:
    vm = started(vm_factory(), "--memory", "full")
    kept = vm.cli_json("stop", vm.name)["kept"]
    (found,) = shown(vm)
    assert (found["name"], found["memory"], found["automatic"]) == (kept, "full", True)
    assert at_current(vm)


def test_a_vm_that_cannot_be_kept_stops_all_the_same_and_says_why(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    raw = vm.root / "more.raw"
    raw.write_bytes(bytes(1 << 20))
    vm.cli("run", "--detach", vm.name, "--", *bare(vm, "-drive", f"file={raw},format=raw,if=virtio"))
    done = vm.cli("stop", vm.name)
    (line,) = done.stderr.splitlines()
    assert line.startswith("The state of dev was not kept: ")
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    assert shown(vm) == []


def test_quit_over_qmp_keeps_nothing(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        client.execute("quit")
    wait_until(lambda: vm.cli_json("vms")[0]["state"] == "stopped", "QEMU's end")
    assert automatic(vm) == []
