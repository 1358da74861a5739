"""The main job, on a real guest: RAM, every disk and the serial line are of one moment after every load."""

from __future__ import annotations

import random

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.main.moments import (
    Moment,
    assert_at,
    create,
    go_on,
    last_counter,
    load,
    load_running,
    written,
)
from tests.functional.traps.safety import entries, run_state


def parents(vm: TestVM) -> dict[str, str]:
    """Return the name of each snapshot's parent; every snapshot must be whole."""
    found = vm.cli_json("list", vm.name)
    assert all(snapshot["consistent"] for snapshot in found), found
    return {snapshot["name"]: snapshot["parent_name"] for snapshot in found}


def current(vm: TestVM) -> str:
    """Return the name of the current snapshot."""
    return str(vm.cli_json("status", vm.name)["current"]["name"])


def test_a_vm_goes_back_and_forth_with_ram_and_both_disks_of_one_moment(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    vm.run()
    vm.wait_states(3)
    one = create(vm, "one", "-m", "clean install")
    go_on(vm)
    two = create(vm, "two")
    load_running(vm, "one", one)
    assert current(vm) == "one"
    go_on(vm)
    three = create(vm, "three")
    load(vm, "two", two)
    go_on(vm)
    load(vm, "three", three)

    with vm.qmp() as client:
        before = written(client)
        go_on(vm)
        assert all(now > before[device] for device, now in written(client).items())
    assert parents(vm) == {"one": "", "two": "one", "three": "one"}
    assert current(vm) == "three"
    log = vm.cli_json("log", vm.name)
    assert [(entry["action"], entry["name"], entry["from_name"], entry["result"]) for entry in log] == [
        ("create", "one", "", "ok"),
        ("create", "two", "one", "ok"),
        ("load", "one", "two", "ok"),
        ("create", "three", "one", "ok"),
        ("load", "two", "three", "ok"),
        ("load", "three", "two", "ok"),
    ]
    assert all(0 < entry["pause_ms"] <= entry["duration_ms"] for entry in log)
    vm.assert_guest_ok()


def test_a_stopped_vm_starts_cold_and_goes_back_to_its_snapshots(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    vm.run()
    vm.wait_states(3)
    one = create(vm, "one")
    go_on(vm)
    two = create(vm, "two")
    vm.cli("stop", "--discard", vm.name)
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    assert parents(vm) == {"one": "", "two": "one"}

    since = vm.serial_end()
    assert "starts cold" in vm.run().stderr
    vm.wait_serial("^GUEST-UP", since=since)
    assert vm.wait_states(1, since)[0].ram == 0
    assert current(vm) == "two"
    load(vm, "one", one)
    go_on(vm)
    three = create(vm, "three")
    vm.cli("stop", "--discard", vm.name)

    # This time the guest is in the middle of its start.
    vm.run()
    load(vm, "two", two)
    load(vm, "three", three)
    assert parents(vm) == {"one": "", "two": "one", "three": "one"}
    vm.assert_guest_ok()


def test_a_vm_runs_after_a_load_exactly_if_it_ran_just_before(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=20)
    vm.run()
    vm.wait_states(3)
    with vm.qmp() as client:
        running = create(vm, "running")
        client.execute("stop")
        paused = create(vm, "paused")
        assert run_state(client) == "paused"
        assert vm.cli_json("vms")[0]["state"] == "paused"
        assert "it is still paused, as it was" in vm.cli("load", "--discard", vm.name, "running").stdout
        assert run_state(client) == "paused"
        since = vm.serial_end()
        client.execute("cont")
        assert_at(vm, running, since)
        vm.cli("load", "--discard", vm.name, "paused")
        assert run_state(client) == "running"
        go_on(vm)
        vm.assert_guest_ok()
        vm.cli("stop", "--discard", vm.name)

    since = vm.serial_end()
    vm.run("-S")
    with vm.qmp() as client:
        for name in ("running", "paused"):
            vm.cli("load", "--discard", vm.name, name)
            assert client.execute("query-status")["running"] is False
        assert vm.serial_end() == since
        client.execute("cont")
        assert_at(vm, paused, since)
    vm.assert_guest_ok()


@pytest.mark.parametrize("disks", ["drive", "blockdev"])
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_three_disks_go_back_together_on_any_machine(vm_factory: VMFactory, disks: str, machine: str) -> None:
    vm = vm_factory(disks=3, pace_ms=20)
    vm.run("-machine", machine, disks=disks)
    vm.wait_states(3)
    one = create(vm, "one")
    go_on(vm)
    create(vm, "two")
    load_running(vm, "one", one)
    shown = vm.cli_json("show", vm.name, "one")
    assert [device["present"] for device in shown["devices"]] == [True] * 3
    with vm.qmp() as client:
        assert [len(found) for found in entries(client).values()] == [2, 2, 2]
        assert len(written(client)) == 3
    vm.assert_guest_ok()


@pytest.mark.parametrize("memory", ["pages", "full"])
def test_a_disk_that_is_at_the_snapshot_already_is_not_written_by_a_load_and_any_other_goes_back(
    vm_factory: VMFactory, memory: str
) -> None:
    vm = vm_factory(disks=3, pace_ms=20)
    vm.know_qemu()
    vm.cli("run", "--detach", "--memory", memory, vm.name, "--", *vm.qemu_args())
    vm.wait_states(3)
    with vm.qmp() as client:
        one = create(vm, "one")
        vm.cli("load", "--discard", vm.name, "one")
        client.execute("stop")
        vm.cli("load", "--discard", vm.name, "one")
        before = [disk.stat().st_mtime_ns for disk in vm.disks]
        vm.cli("load", "--discard", vm.name, "one")  # the guest has not run since
        after = [disk.stat().st_mtime_ns for disk in vm.disks]
        assert [now != then for now, then in zip(after, before, strict=True)] == [True, False, False]
        since = vm.serial_end()
        client.execute("cont")
        assert_at(vm, one, since)
        go_on(vm)
    load_running(vm, "one", one)
    vm.assert_guest_ok()


def test_a_linux_with_three_disks_by_blockdev_on_q35_goes_back_in_a_new_process(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", disks=3, pace_ms=20)
    line = ("-machine", "q35")
    vm.run(*line, disks="blockdev", cache="none")
    vm.wait_states(3)
    one = create(vm, "one")
    go_on(vm)
    load_running(vm, "one", one)
    vm.cli("stop", "--discard", vm.name)
    vm.run(*line, disks="blockdev", cache="none")
    load(vm, "one", one)
    vm.assert_guest_ok()


def test_flash_memory_is_part_of_a_snapshot_and_never_holds_its_vm_state(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=20)
    # Named first, so that the devices' order alone would choose it.
    flash = vm.pflash_args(vm.new_image("vars", "64K"))
    vm.run(*flash, *vm_disks(vm), disks="none")
    vm.wait_states(3)
    one = create(vm, "one")
    shown = vm.cli_json("show", vm.name, "one")
    assert {device["device"]: device["present"] for device in shown["devices"]} == {
        "pflash1": True,
        "virtio0": True,
        "virtio1": True,
    }
    assert shown["vmstate_device"] == "virtio0"
    with vm.qmp() as client:
        sizes = {
            node["image"]["filename"]: node["image"]["snapshots"][0]["vm-state-size"]
            for node in client.execute("query-named-block-nodes", {"flat": True})
            if node["drv"] == "qcow2"
        }
    assert sizes[str(vm.root / "vars.qcow2")] == sizes[str(vm.disks[1])] == 0
    assert sizes[str(vm.disks[0])] == shown["vm_state_size"] > 0
    load_running(vm, "one", one)
    vm.assert_guest_ok()


def vm_disks(vm: TestVM) -> list[str]:
    """Return the arguments for the guest's disks."""
    return [word for disk in vm.disks for word in ("-drive", f"file={disk},format=qcow2,if=virtio")]


class Walk:
    """A guest's snapshots as they must be, and random steps that keep it so."""

    def __init__(self, vm: TestVM, seed: int) -> None:
        self.vm = vm
        self.random = random.Random(seed)
        self.parents: dict[str, str] = {}
        self.moments: dict[str, Moment] = {}
        self.current = ""
        self.taken = 0

    def create(self) -> None:
        self.taken += 1
        name = f"s{self.taken}"
        self.moments[name] = create(self.vm, name)
        self.parents[name] = self.current
        self.current = name

    def load(self) -> None:
        name = self._choose()
        moment = self.moments[name]
        if last_counter(self.vm) > moment.stop:
            load_running(self.vm, name, moment)
        else:
            load(self.vm, name, moment)
        self.current = name

    def delete(self) -> None:
        name = self._choose()
        self.vm.cli("delete", self.vm.name, name)
        del self.moments[name]
        parent = self.parents.pop(name)
        self.parents = {child: parent if of == name else of for child, of in self.parents.items()}
        self.current = parent if self.current == name else self.current

    def rename(self) -> None:
        old = self._choose()
        new = f"{old}-again"
        self.vm.cli("rename", self.vm.name, old, new)
        self.moments[new] = self.moments.pop(old)
        self.parents = {new if child == old else child: new if of == old else of for child, of in self.parents.items()}
        self.current = new if self.current == old else self.current

    def restart(self) -> None:
        self.vm.cli("stop", "--discard", self.vm.name)
        self.vm.run()

    def step(self) -> None:
        steps = (
            [self.create, self.load, self.load, self.delete, self.rename] if len(self.moments) > 1 else [self.create]
        )
        self.random.choice(steps)()
        assert parents(self.vm) == self.parents
        assert current(self.vm) == self.current

    def _choose(self) -> str:
        return self.random.choice(sorted(self.moments))


@pytest.mark.long
@pytest.mark.parametrize("seed", [20100729])
def test_any_walk_through_the_tree_leaves_the_guest_whole(vm_factory: VMFactory, seed: int) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    vm.run()
    vm.wait_states(3)
    walk = Walk(vm, seed)
    for number in range(15):
        if number == 9:
            walk.restart()
            walk.load()  # else the guest would just be starting
        walk.step()
        go_on(vm)
    vm.assert_guest_ok()
    with vm.qmp() as client:
        assert all(len(found) == len(walk.moments) for found in entries(client).values())
