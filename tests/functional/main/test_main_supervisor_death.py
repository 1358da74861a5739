"""A supervisor that dies at any point of create, load and delete: the next one finds a whole VM, or makes it whole.

``SNAPTREE_TRACE`` lets the supervisor end itself by SIGKILL at one named point.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import snaptree.engine
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import create, go_on, load, load_running
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, run_state

# Whether the operation has happened for whoever looks afterwards.
CREATE = {"planned": False, "begun": False, "paused": False, "saved": True, "whole": True, "done": True}
LOAD = {"planned": False, "begun": False, "paused": False, "loaded": True, "done": True}
DELETE = {"begun": True, "removed": True, "done": True}  # it is never undone
POINTS = [
    *(("create", point, happened) for point, happened in CREATE.items()),
    *(("load", point, happened) for point, happened in LOAD.items()),
    *(("delete", point, happened) for point, happened in DELETE.items()),
]
BASE = {"a": 1, "b": 2}
"""What the disks hold in the snapshots that are there before; at the moment of death they hold 3."""


def run(vm: TestVM) -> str:
    """``snaptree run`` the VM; return what is said beside the answer."""
    return vm.cli("run", "--detach", vm.name, "--", *bare(vm)).stderr


def with_base(vm: TestVM) -> None:
    """Run the VM and take its first snapshots; then stop it."""
    run(vm)
    with vm.qmp() as client:
        for name, pattern in BASE.items():
            write(client, pattern)
            client.execute("snapshot-create", {"name": name})
        write(client, 3)
    vm.cli("stop", vm.name)


@contextmanager
def armed(vm: TestVM, point: str) -> Iterator[None]:
    """Let every supervisor that is started in this block die at this point."""
    vm.env["SNAPTREE_TRACE"] = f"{point}=kill"
    yield
    del vm.env["SNAPTREE_TRACE"]


def die(vm: TestVM, operation: str, point: str) -> int:
    """Run an operation of a supervisor that dies in it; return the pid of QEMU, which is still there."""
    with vm.qmp() as client:
        pid = int(client.execute("query-vm")["qemu_pid"])
        failed = vm.cli(operation, vm.name, "new" if operation == "create" else "a", check=False)
        assert failed.returncode == 1, failed
        assert "ended before the answer" in failed.stderr, failed
    wait_until(lambda: vm.cli_json("vms")[0]["state"] == "unsupervised", f"the supervisor's death at {point}")
    return pid


def kill_qemu(pid: int) -> None:
    """End QEMU by SIGKILL, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/fd").is_dir() or not any(Path(f"/proc/{pid}/fd").iterdir()), "its end")


def expected(operation: str, happened: bool) -> tuple[dict[str, int], str, int]:
    """Return what each snapshot holds after an operation, the current one, and what the disks hold."""
    if not happened:
        return BASE, "b", 3
    if operation == "create":
        return {**BASE, "new": 3}, "new", 3
    if operation == "load":
        return BASE, "a", 1
    return {"b": 2}, "b", 3


def assert_whole(vm: TestVM, client: QMPClient, snapshots: dict[str, int], current: str, now: int) -> None:
    """Assert that the VM is as it must be, that nothing half is anywhere, and that all can be gone on with."""
    assert contents(vm, client) == [now, now]
    found = client.execute("query-snapshots", {"foreign": True})
    assert {snapshot["name"] for snapshot in found} == set(snapshots)
    assert all(snapshot["consistent"] for snapshot in found)
    assert [len(tags) for tags in entries(client).values()] == [len(snapshots)] * 2
    assert client.execute("query-current-snapshot")["name"] == current
    assert client.execute("query-jobs") == []
    assert client.execute("query-snapshot-status") is True
    for name, pattern in snapshots.items():
        client.execute("snapshot-load", {"name": name})
        assert contents(vm, client) == [pattern, pattern]
    client.execute("snapshot-create", {"name": "afterwards"})
    assert run_state(client) == "running"


def test_every_trace_point_is_died_at() -> None:
    source = "".join(path.read_text() for path in Path(snaptree.engine.__path__[0]).glob("*.py"))
    points = re.findall(r"trace\.point\(\"(.*?)\"\)", source)
    assert sorted(points) == sorted(f"{operation}.{point}" for operation, point, _ in POINTS)


@pytest.mark.parametrize(("operation", "point", "happened"), POINTS, ids=lambda value: str(value))
def test_a_supervisor_that_dies_leaves_a_vm_that_attach_makes_whole(
    vm_factory: VMFactory, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, f"{operation}.{point}"):
        run(vm)
    die(vm, operation, f"{operation}.{point}")
    vm.cli("attach", "--detach", vm.name)
    with vm.qmp() as client:
        assert run_state(client) == "running"
        assert_whole(vm, client, *expected(operation, happened))


@pytest.mark.parametrize(("operation", "point", "happened"), POINTS, ids=lambda value: str(value))
def test_a_supervisor_and_a_qemu_that_die_leave_a_vm_that_run_makes_whole(
    vm_factory: VMFactory, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, f"{operation}.{point}"):
        run(vm)
    kill_qemu(die(vm, operation, f"{operation}.{point}"))
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    run(vm)
    with vm.qmp() as client:
        assert run_state(client) == "running"
        assert_whole(vm, client, *expected(operation, happened))


@pytest.mark.parametrize("point", ["create.saved", "load.paused", "load.loaded"])
def test_a_vm_that_stood_still_when_its_supervisor_died_still_does(vm_factory: VMFactory, point: str) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, point):
        run(vm)
    with vm.qmp() as client:
        client.execute("stop")
    operation, _, name = point.partition(".")
    die(vm, operation, point)
    assert vm.cli_json("attach", "--detach", vm.name)["state"] == "paused"
    with vm.qmp() as client:
        assert run_state(client) == "paused"
        client.execute("cont")
        assert_whole(vm, client, *expected(operation, {**CREATE, **LOAD}[name]))


def tag_of(vm: TestVM, name: str) -> str:
    """Return the tag in the images of disk b whose first name this is."""
    listed = vm.tool("qemu-img", "snapshot", "-l", str(vm.disks[1])).stdout
    match = re.search(rf"\b{name}@\S+", listed)
    assert match is not None, listed
    return match[0]


def test_a_create_that_is_on_one_disk_only_is_undone(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, "create.saved"):
        run(vm)
    kill_qemu(die(vm, "create", "create.saved"))
    vm.tool("qemu-img", "snapshot", "-d", tag_of(vm, "new"), str(vm.disks[1]))
    assert "The create of new, which was cut off, has been undone." in run(vm)
    with vm.qmp() as client:
        assert_whole(vm, client, *expected("create", False))


def test_a_load_that_has_reverted_one_disk_only_is_finished(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, "load.paused"):
        run(vm)
    kill_qemu(die(vm, "load", "load.paused"))
    vm.tool("qemu-img", "snapshot", "-a", tag_of(vm, "a"), str(vm.disks[1]))
    assert contents(vm) == [3, 1]
    assert "The load of a, which was cut off half way, has been finished" in run(vm)
    with vm.qmp() as client:
        assert_whole(vm, client, *expected("load", True))


def test_a_delete_that_has_done_one_disk_only_is_finished(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, "delete.begun"):
        run(vm)
    kill_qemu(die(vm, "delete", "delete.begun"))
    vm.tool("qemu-img", "snapshot", "-d", tag_of(vm, "a"), str(vm.disks[1]))
    assert "The delete of a, which was cut off, has been finished." in run(vm)
    with vm.qmp() as client:
        assert_whole(vm, client, *expected("delete", True))


def test_a_delete_of_a_subtree_goes_on_where_it_was_cut_off(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with_base(vm)
    with armed(vm, "delete.removed"):
        run(vm)
    with vm.qmp() as client:
        failed = vm.cli("delete", vm.name, "a", "--children", check=False)
        assert failed.returncode == 1
        client.close()
    wait_until(lambda: vm.cli_json("vms")[0]["state"] == "unsupervised", "the supervisor's death")
    vm.cli("attach", "--detach", vm.name)
    with vm.qmp() as client:
        assert client.execute("query-snapshots", {"foreign": True}) == []
        assert client.execute("query-current-snapshot")["id"] is None
        assert list(entries(client).values()) == [[], []]
        assert contents(vm, client) == [3, 3]


def test_a_guest_goes_on_whole_after_its_supervisor_died_in_a_create_and_in_a_load(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    with armed(vm, "create.saved,load.loaded=kill,create.paused"):
        vm.run()
    vm.wait_states(3)
    before = vm.states()[-1].ram
    die(vm, "create", "create.saved")
    with armed(vm, "load.loaded"):
        vm.cli("attach", "--detach", vm.name)
    moment = range(before + 1, vm.states()[-1].ram + 3)
    go_on(vm)
    load_moment = moment
    with vm.qmp() as client:
        assert [snapshot["name"] for snapshot in client.execute("query-snapshots")] == ["new"]
        client.execute("snapshot-rename", {"name": "new", "new-name": "a"})
    vm.wait_state_after(moment.stop)
    since = vm.serial_end()
    die(vm, "load", "load.loaded")
    vm.cli("attach", "--detach", vm.name)
    vm.wait_serial(rf"^STATE OK ram=({'|'.join(str(counter) for counter in load_moment)}) ", since=since)
    two = create(vm, "two")
    go_on(vm)
    load_running(vm, "two", two)
    load(vm, "a", moment)
    vm.assert_guest_ok()
