"""A supervisor that dies at any point of create, load and delete: the next one finds a whole VM, or makes it whole.

``SNAPTREE_TRACE`` lets the supervisor end itself by SIGKILL at one named point.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import create, go_on, last_counter, load, load_running, wait_for_moment
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, idle_flash, run_state

import snaptree.engine

# Whether the operation has happened for whoever looks afterwards, where RAM is kept in full and in pages.
CREATE = {
    "full": {"planned": False, "begun": False, "paused": False, "saved": True, "whole": True, "done": True},
    "pages": {
        **{"planned": False, "marked": False, "copied": False, "begun": False, "paused": False},
        **{"saved": False, "kept": True, "whole": True, "done": True},
    },
}
LOAD = {
    "full": {
        **{"kept": False, "planned": False, "begun": False, "paused": False},
        **{"reverted": True, "loaded": True, "noted": True, "done": True},
    },
    "pages": {
        **{"kept": False, "planned": False, "begun": False, "paused": False},
        **{"ram": True, "reverted": True, "loaded": True, "noted": True, "done": True},
    },
}
DELETE = {"begun": True, "removed": True, "freed": True, "done": True}  # it is never undone
POINTS = [
    (way, operation, point, happened)
    for way in ("full", "pages")
    for operation, points in (("create", CREATE[way]), ("load", LOAD[way]), ("delete", DELETE))
    for point, happened in points.items()
]
WITH_QEMU = {("pages", "load", "ram"): False}
"""Where QEMU dies too and it is another: RAM is lost with it, and no disk was touched."""
ELSEWHERE = {"load.returning", "stop.kept"}
"""Died at in tests of what leads there (tests/functional/undo)."""
ALONE = ("offline-", "adopt.", "repair.", "resume.")
"""Points of resume, of commands on a stopped VM, and of those that change the catalog alone die elsewhere."""
EACH_POINT = pytest.mark.parametrize(
    ("way", "operation", "point", "happened"), POINTS, ids=[f"{way}-{what}-{point}" for way, what, point, _ in POINTS]
)


def run(vm: TestVM, *dying: str, way: str = "pages", how: str = "kill") -> str:
    """``snaptree run`` the VM, with a supervisor that dies at one of these points; return what it says beside."""
    still = ("-bios", str(idle_flash(vm)))  # none of these tests needs SeaBIOS to look for a system
    with armed(vm, *dying, how=how):
        return vm.cli("run", "--detach", "--memory", way, vm.name, "--", *bare(vm, *still)).stderr


@contextmanager
def armed(vm: TestVM, *points: str, how: str = "kill") -> Iterator[None]:
    """Let every supervisor that is started in this block die at one of these points, or ``stop`` there."""
    vm.env["SNAPTREE_TRACE"] = ",".join(f"{point}={how}" for point in points)
    yield
    del vm.env["SNAPTREE_TRACE"]


def base(operation: str) -> dict[str, int]:
    """Return the snapshots that are there before an operation, and what the disks hold in each."""
    return {} if operation == "create" else {"a": 1, "b": 2}


def run_and_die(vm: TestVM, way: str, operation: str, point: str, *, paused: bool = False) -> int:
    """Run the VM, take the first snapshots, and an operation in which the supervisor dies; return the pid of QEMU.

    At that moment the disks hold 3.
    """
    run(vm, f"{operation}.{point}", way=way)
    with vm.qmp() as client:
        for name, pattern in base(operation).items():
            write(client, pattern)
            client.execute("snapshot-create", {"name": name})
        write(client, 3)
        contents(vm, client)  # writes back what QEMU holds; else its death would be that of the writes
        if paused:
            client.execute("stop")
        known = client.execute("query-vm")
        more = {"keep": False} if operation == "load" else {}
        with ending(known["supervisor_pid"]), pytest.raises(AssertionError, match="closed the connection"):
            client.execute(f"snapshot-{operation}", {"name": "new" if operation == "create" else "a", **more})
    return int(known["qemu_pid"])


def die(vm: TestVM, *command: str) -> None:
    """Run a command in which the supervisor dies, and wait for that; QEMU is still there."""
    with vm.qmp() as client:
        supervisor = client.execute("query-vm")["supervisor_pid"]
    with ending(supervisor):
        failed = vm.cli(command[0], vm.name, *command[1:], check=False)
        assert failed.returncode == 1, failed
        assert "ended before the answer" in failed.stderr, failed


@contextmanager
def ending(pid: int) -> Iterator[None]:
    """Wait, after the block, until a process has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        wait_until(lambda: select.select([pidfd], [], [], 0)[0], f"the end of process {pid}")
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """End a process by SIGKILL, and wait until it is gone."""
    with ending(pid):
        os.kill(pid, signal.SIGKILL)


def expected(operation: str, happened: bool) -> tuple[dict[str, int], str, int]:
    """Return what each snapshot holds after an operation, the current one's name, and what the disks hold."""
    before = base(operation)
    if not happened:
        return before, "b" if before else "", 3
    if operation == "create":
        return {"new": 3}, "new", 3
    if operation == "load":
        return before, "a", 1
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
        client.execute("snapshot-load", {"name": name, "keep": False})
        assert contents(vm, client) == [pattern, pattern]
    client.execute("snapshot-create", {"name": "afterwards"})
    assert run_state(client) == "running"


def test_every_trace_point_is_died_at() -> None:
    source = "".join(path.read_text() for path in Path(snaptree.engine.__path__[0]).glob("*.py"))
    points = [p for p in re.findall(r"trace\.point\(\"(.*?)\"\)", source) if not p.startswith(ALONE)]
    assert set(points) == {f"{operation}.{point}" for _, operation, point, _ in POINTS} | ELSEWHERE


@EACH_POINT
def test_a_supervisor_that_dies_leaves_a_vm_that_attach_makes_whole(
    vm_factory: VMFactory, way: str, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    run_and_die(vm, way, operation, point)
    vm.cli("attach", "--detach", vm.name)
    with vm.qmp() as client:
        assert run_state(client) == "running"
        assert_whole(vm, client, *expected(operation, happened))


@EACH_POINT
def test_a_supervisor_and_a_qemu_that_die_leave_a_vm_that_run_makes_whole(
    vm_factory: VMFactory, way: str, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    kill(run_and_die(vm, way, operation, point))
    run(vm, way=way)
    with vm.qmp() as client:
        assert run_state(client) == "running"
        assert_whole(vm, client, *expected(operation, WITH_QEMU.get((way, operation, point), happened)))


@pytest.mark.parametrize(
    ("way", "operation", "point", "happened"),
    [
        ("full", "create", "paused", False),
        ("full", "create", "saved", True),
        ("full", "load", "paused", False),
        ("full", "load", "loaded", True),
        ("pages", "create", "marked", False),
        ("pages", "create", "kept", True),
        ("pages", "load", "ram", True),
        ("pages", "load", "loaded", True),
    ],
)
def test_a_vm_that_stood_still_when_its_supervisor_died_still_does(
    vm_factory: VMFactory, way: str, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    run_and_die(vm, way, operation, point, paused=True)
    assert vm.cli_json("attach", "--detach", vm.name)["state"] == "paused"
    with vm.qmp() as client:
        assert run_state(client) == "paused"
        client.execute("cont")
        assert_whole(vm, client, *expected(operation, happened))


def tag_of(vm: TestVM, name: str) -> str:
    """Return the tag on disk b whose first name this is."""
    listed = vm.tool("qemu-img", "snapshot", "-l", str(vm.disks[1])).stdout
    match = re.search(rf"\b{name}@\S+", listed)
    assert match is not None, listed
    return match[0]


@pytest.mark.parametrize(
    ("operation", "point", "option", "happened", "said"),
    [
        (
            "create",
            {"full": "saved", "pages": "kept"},
            "-d",
            False,
            "The create of new, which was cut off, has been un",
        ),
        ("load", {}, "-a", True, "The load of a, which was cut off half way, has been finished"),
        ("delete", {}, "-d", True, "The delete of a, which was cut off, has been finished."),
    ],
    ids=["create", "load", "delete"],
)
@pytest.mark.parametrize("way", ["full", "pages"])
def test_what_was_done_on_one_disk_only_is_done_on_all_or_undone(
    vm_factory: VMFactory, operation: str, point: dict[str, str], option: str, happened: bool, said: str, way: str
) -> None:
    vm = vm_factory()
    kill(run_and_die(vm, way, operation, point.get(way, "paused" if operation == "load" else "begun")))
    tag = tag_of(vm, "new" if operation == "create" else "a")
    vm.tool("qemu-img", "snapshot", option, tag, str(vm.disks[1]))
    assert said in run(vm, way=way)
    with vm.qmp() as client:
        assert_whole(vm, client, *expected(operation, happened))


def test_a_delete_of_a_subtree_goes_on_where_it_was_cut_off(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    run(vm, "delete.removed")
    with vm.qmp() as client:
        for name in ("a", "b", "c"):
            client.execute("snapshot-create", {"name": name})
    die(vm, "delete", "a", "--children")
    vm.cli("attach", "--detach", vm.name)
    with vm.qmp() as client:
        assert client.execute("query-snapshots", {"foreign": True}) == []
        assert client.execute("query-current-snapshot")["id"] is None
        assert list(entries(client).values()) == [[], []]


@pytest.mark.parametrize(("way", "point"), [("full", "create.saved"), ("pages", "create.kept")])
def test_a_guest_goes_on_whole_after_its_supervisor_died_in_a_create_and_in_a_load(
    vm_factory: VMFactory, way: str, point: str
) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    with armed(vm, point):
        vm.cli("run", "--detach", "--memory", way, vm.name, "--", *vm.qemu_args())
    vm.wait_states(3)
    before = last_counter(vm)
    die(vm, "create", "new")
    with armed(vm, "load.reverted"):
        vm.cli("attach", "--detach", vm.name)
    moment = range(before + 1, last_counter(vm) + 3)
    go_on(vm)
    since = vm.serial_end()
    die(vm, "load", "new", "--discard")
    assert vm.cli_json("attach", "--detach", vm.name)["state"] == "running"
    wait_for_moment(vm, moment, since)
    go_on(vm)
    two = create(vm, "two")
    go_on(vm)
    load_running(vm, "two", two)
    load(vm, "new", moment)
    vm.assert_guest_ok()
