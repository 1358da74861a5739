"""A load that fails half way, or is cut off, returns to where the VM was before: nothing is lost.

The load fails because its VM state was damaged behind QEMU's back: QEMU reverts all disks, and then finds it.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from tests.conftest import VMFactory
from tests.framework.faults import state_of
from tests.framework.qmp import QMPError
from tests.framework.ram import differing
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import go_on
from tests.functional.main.patterns import write
from tests.functional.main.untouched import fails, fails_json
from tests.functional.traps.safety import run_state
from tests.functional.undo.moves import automatic, cont, current, ram_of, run_bare, shown, spoil, stand, started

PACE_MS = 1000
"""The guest mostly sleeps.  Where QEMU has loaded half a state while a PCI interrupt was pending, then or now, its next
reset can abort it (``pcibus_reset``), and nothing but `resume` goes on from there."""


def test_a_load_that_fails_half_way_puts_the_vm_back_to_where_it_was(vm_factory: VMFactory) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS))
    vm.cli("create", vm.name, "a")
    before = stand(vm)
    spoil(vm)
    said = fails(vm, "load", vm.name, "a", code=1)
    assert "The load of a failed half way" in said
    assert "put back to where it was before" in said
    (kept,) = automatic(vm)
    assert current(vm) == kept
    assert differing(before, ram_of(vm)) == []
    with vm.qmp() as client:
        assert run_state(client) == "paused"
        assert client.execute("query-snapshot-status") is True
        assert client.execute("query-jobs") == []
        log = [
            (e["action"], e["name"], e["result"].partition(":")[0]) for e in client.execute("query-snapshot-history")
        ]
        assert log[-2:] == [("load", "a", "incomplete"), ("load", kept, "ok")]
    cont(vm)
    vm.assert_guest_ok()


@pytest.mark.parametrize("way", ["pages", "full"])
def test_a_vm_that_ran_runs_on_from_there(vm_factory: VMFactory, way: str) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS), "--memory", way)
    vm.cli("create", vm.name, "a")
    go_on(vm)
    spoil(vm)
    assert fails_json(vm, "load", "--keep", vm.name, "a", code=1)["code"] == "qemu-failed"
    assert [current(vm)] == automatic(vm)
    with vm.qmp() as client:
        assert run_state(client) == "running"
    go_on(vm)
    vm.assert_guest_ok()


def test_one_that_was_discarded_stays_half_way_and_says_so(vm_factory: VMFactory) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS))
    vm.cli("create", vm.name, "a")
    go_on(vm)
    spoil(vm)
    assert fails_json(vm, "load", "--discard", vm.name, "a", code=1)["code"] == "load-incomplete"
    assert vm.cli_json("status", vm.name)["reasons"][0]["code"] == "load-incomplete"


def test_one_that_had_not_run_goes_back_to_its_current_snapshot(vm_factory: VMFactory) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS))
    vm.cli("create", vm.name, "a")
    go_on(vm)
    spoil(vm)
    before = stand(vm)
    vm.cli("create", vm.name, "b")
    assert fails_json(vm, "load", vm.name, "a", code=1)["code"] == "qemu-failed"
    assert (current(vm), automatic(vm)) == ("b", [])
    assert differing(before, ram_of(vm)) == []


@contextmanager
def dying(vm: TestVM, point: str) -> Iterator[None]:
    """Look after the VM by a supervisor that dies at this point, in the block."""
    with vm.qmp() as client:
        old = client.execute("query-vm")["supervisor_pid"]
    kill(old)
    vm.env["SNAPTREE_TRACE"] = f"{point}=kill"
    vm.cli("attach", "--detach", vm.name)
    del vm.env["SNAPTREE_TRACE"]
    with vm.qmp() as client:
        pidfd = os.pidfd_open(client.execute("query-vm")["supervisor_pid"])
    try:
        yield
        wait_until(lambda: select.select([pidfd], [], [], 0)[0], "the supervisor's end")
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """End a process by SIGKILL, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: select.select([pidfd], [], [], 0)[0], f"the end of process {pid}")
    os.close(pidfd)


@pytest.mark.parametrize("point", ["load.ram", "load.returning"])
def test_a_load_that_was_cut_off_and_cannot_be_finished_goes_back(vm_factory: VMFactory, point: str) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS))
    vm.cli("create", vm.name, "a")
    before = stand(vm)
    spoil(vm)
    with dying(vm, point):
        vm.cli("load", vm.name, "a", check=False)
    said = vm.cli("attach", "--detach", vm.name).stderr
    (kept,) = automatic(vm)
    assert kept in said
    assert current(vm) == kept
    assert differing(before, ram_of(vm)) == []
    with vm.qmp() as client:
        assert run_state(client) == "paused"
        assert client.execute("query-snapshot-status") is True
    cont(vm)
    vm.assert_guest_ok()


@pytest.mark.parametrize("way", ["pages", "full"])
def test_where_the_way_back_cannot_be_noted_nothing_goes_on_half_way(vm_factory: VMFactory, way: str) -> None:
    vm = vm_factory(pace_ms=PACE_MS)
    vm.env["SNAPTREE_TRACE"] = "load.returning=stop"
    started(vm, "--memory", way)
    vm.cli("create", vm.name, "a")
    go_on(vm)
    spoil(vm)
    with vm.qmp() as client:
        known = client.execute("query-vm")["supervisor_pid"]
        number = client.send("snapshot-load", {"name": "a", "keep": True})
        wait_until(lambda: state_of(known) == "T", "the supervisor to stop on its way back")
        with closing(sqlite3.connect(vm.home / "vms" / vm.name / "catalog.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody else can write
            os.kill(known, signal.SIGCONT)
            with pytest.raises(QMPError, match="failed half way"):
                client.reply("snapshot-load", number)
        assert run_state(client) == "paused"
        assert client.execute("query-snapshot-status") is not True


@pytest.mark.parametrize(
    ("point", "left", "at"),
    [
        ("create.begun", 0, "a"),
        ("create.kept", 1, ""),
        ("create.done", 1, ""),
        ("load.kept", 1, ""),
        ("load.ram", 1, "a"),
        ("load.done", 1, "a"),
    ],
)
def test_a_death_between_keeping_and_loading_leaves_both_whole(
    vm_factory: VMFactory, point: str, left: int, at: str
) -> None:
    vm = started(vm_factory(pace_ms=PACE_MS))
    vm.cli("create", vm.name, "a")
    before = stand(vm)
    with dying(vm, point):
        vm.cli("load", vm.name, "a", check=False)
    vm.cli("attach", "--detach", vm.name)
    assert len(automatic(vm)) == left
    assert current(vm) == (at or automatic(vm)[0])
    assert all(snapshot["consistent"] for snapshot in shown(vm))
    if at == "a" and left:
        assert differing(before, ram_of(vm))
        assert vm.cli_json("undo", vm.name)["name"] == automatic(vm)[0]
    assert differing(before, ram_of(vm)) == []
    cont(vm)
    vm.assert_guest_ok()
    assert vm.cli_json("check", vm.name)["ok"]


def test_a_death_while_old_ones_are_deleted_is_rolled_forward(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("stop")
        client.execute("snapshot-create", {"name": "a"})
        for number in range(5):
            write(client, number + 1)
            client.execute("snapshot-load", {"name": "a"})
        write(client, 9)
    first = automatic(vm)[0]
    with dying(vm, "delete.removed"):
        vm.cli("load", vm.name, "a", check=False)
    vm.cli("attach", "--detach", vm.name)
    assert (len(automatic(vm)), first in automatic(vm), current(vm)) == (5, False, "a")
    assert vm.cli_json("check", vm.name)["ok"]
