"""A command on a stopped VM that is killed at any point: the next command, or the next start, finds a whole VM.

``SNAPTREE_TRACE`` lets the command end itself by SIGKILL at one named point.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents
from tests.functional.offline.stopped import (
    assert_images_whole,
    current,
    names,
    set_disks,
    stopped_vm,
    tables,
    taken,
)
from tests.functional.traps.safety import attached, bare, reasons, under_care

import snaptree.engine

# Whether the operation has happened for whoever looks afterwards.
CREATE = {"begun": False, "one": False, "all": True, "noted": True, "done": True}
LOAD = {"begun": False, "reverting": True, "one": True, "all": True, "noted": True, "done": True}
DELETE = {"begun": True, "one": True, "removed": True, "done": True}  # it is never undone
POINTS = [
    *(("create", point, happened) for point, happened in CREATE.items()),
    *(("load", point, happened) for point, happened in LOAD.items()),
    *(("delete", point, happened) for point, happened in DELETE.items()),
]
EACH_POINT = pytest.mark.parametrize(
    ("operation", "point", "happened"), POINTS, ids=[f"{operation}-{point}" for operation, point, _ in POINTS]
)


def killed(vm: TestVM, operation: str, point: str) -> None:
    """Take a and b, then kill a command at this point; the disks hold 3 at that moment."""
    stopped_vm(vm)
    taken(vm, "a", 1)
    taken(vm, "b", 2)
    set_disks(vm, 3)
    vm.env["SNAPTREE_TRACE"] = f"offline-{operation}.{point}=kill"
    words = ["--discard"] * (operation == "load")
    done = vm.cli(operation, *words, vm.name, "new" if operation == "create" else "a", check=False)
    assert done.returncode == -signal.SIGKILL, done
    del vm.env["SNAPTREE_TRACE"]


def expected(operation: str, happened: bool) -> tuple[dict[str, int], str, int]:
    """Return what each snapshot holds after an operation, the current one's name, and what the disks hold."""
    before = {"a": 1, "b": 2}
    if not happened:
        return before, "b", 3
    if operation == "create":
        return {**before, "new": 3}, "new", 3
    if operation == "load":
        return before, "a", 1
    return {"b": 2}, "b", 3


def assert_whole(vm: TestVM, operation: str, happened: bool) -> None:
    """Assert that the VM is as it must be, that nothing half is anywhere, and that all can be gone on with."""
    snapshots, now, pattern = expected(operation, happened)
    assert contents(vm) == [pattern, pattern]
    assert set(names(vm, "--foreign")) == set(snapshots)
    assert all(found["consistent"] for found in vm.cli_json("list", vm.name))
    assert [len(table) for table in tables(vm)] == [len(snapshots)] * 2
    assert current(vm) == now
    for name, pattern in snapshots.items():
        vm.cli("load", "--discard", vm.name, name)
        assert contents(vm) == [pattern, pattern]
    assert_images_whole(vm)


def test_every_trace_point_is_died_at() -> None:
    source = "".join(path.read_text() for path in Path(snaptree.engine.__path__[0]).glob("*.py"))
    points = re.findall(r"trace\.point\(\"offline-(.*?)\"\)", source)
    assert sorted(points) == sorted(f"{operation}.{point}" for operation, point, _ in POINTS)


@EACH_POINT
@pytest.mark.qemu("7.2")  # it is qemu-img alone that works here, and the same in both
def test_the_next_command_makes_whole_what_a_killed_one_left(
    vm_factory: VMFactory, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    killed(vm, operation, point)
    vm.cli("load", "--discard", vm.name, "nothing-of-that-name", check=False)  # even one that fails
    assert_whole(vm, operation, happened)


@pytest.mark.parametrize(
    ("operation", "point", "happened"),
    [("create", "one", False), ("create", "all", True), ("load", "one", True), ("delete", "one", True)],
)
def test_the_next_start_makes_whole_what_a_killed_command_left_before_the_guest_sees_the_disks(
    vm_factory: VMFactory, operation: str, point: str, happened: bool
) -> None:
    vm = vm_factory()
    killed(vm, operation, point)
    with under_care(vm, bare(vm)), vm.qmp() as client:
        _, now, pattern = expected(operation, happened)
        assert contents(vm, client) == [pattern, pattern]
        assert client.execute("query-current-snapshot")["name"] == now
        assert reasons(vm) == []
    assert_whole(vm, operation, happened)


def test_a_vm_whose_half_loaded_disks_somebody_started_does_not_run_on(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    killed(vm, "load", "one")
    with attached(vm, bare(vm)), vm.qmp() as client:
        assert ("load-incomplete", None) in reasons(vm)
        assert client.execute("query-status")["status"] == "paused"
    vm.cli("load", "--discard", vm.name, "b")
    assert contents(vm) == [2, 2]
    with under_care(vm, bare(vm)):
        assert reasons(vm) == []


def test_a_half_created_snapshot_is_taken_off_a_qemu_that_somebody_started(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    killed(vm, "create", "one")
    with attached(vm, bare(vm)):
        assert names(vm, "--foreign") == ["a", "b"]
    assert_whole(vm, "create", happened=False)
