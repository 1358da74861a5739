"""Two commands at once on one VM: one waits or is refused, never both; and Ctrl-C in the middle of one.

A QEMU that is stopped by SIGSTOP makes the first command as long as a test needs it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.patterns import contents, write
from tests.functional.main.terminal import Started
from tests.functional.main.untouched import fails_json
from tests.functional.traps.safety import bare, entries, run_state, under_care


@contextmanager
def qemu_stands_still(client: QMPClient) -> Iterator[None]:
    """Keep QEMU from doing anything; what needs it waits."""
    pid = client.execute("query-vm")["qemu_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_busy(client: QMPClient, operation: str) -> None:
    """Wait until the VM is busy with this operation."""
    wait_until(lambda: client.execute("query-vm")["busy"] == operation, f"the {operation} to begin")


def wait_idle(client: QMPClient) -> None:
    """Wait until no operation is under way."""
    wait_until(lambda: client.execute("query-vm")["busy"] is None, "the operation's end")


def wait_asked(vm: TestVM, command: str, times: int) -> None:
    """Wait until the supervisor was asked for a command so often."""
    log = vm.home / "vms" / vm.name / "qmp.log"
    wait_until(lambda: log.read_text().count(f": {command}\n") == times, f"{times} times {command}")


def test_two_creates_at_once_both_succeed_one_after_the_other(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with qemu_stands_still(client):
            first = Started(vm, "create", vm.name, "first")
            wait_busy(client, "create")
            second = Started(vm, "create", vm.name, "second")
            wait_asked(vm, "snapshot-create", 2)
        assert [command.wait()[0] for command in (first, second)] == [0, 0]
        found = client.execute("query-snapshots")
        assert [(s["name"], s["parent_name"], s["consistent"]) for s in found] == [
            ("first", "", True),
            ("second", "first", True),
        ]
        for name in ("first", "second"):
            client.execute("snapshot-load", {"name": name, "keep": False})
        assert run_state(client) == "running"


def test_of_two_creates_of_one_name_at_once_one_is_refused(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with qemu_stands_still(client):
            first = Started(vm, "create", vm.name, "same")
            wait_busy(client, "create")
            second = Started(vm, "create", vm.name, "same", "--json")
            wait_asked(vm, "snapshot-create", 2)
        assert first.wait()[0] == 0
        code, said, _ = second.wait()
        assert (code, '"code": "name-taken"' in said) == (4, True)
        assert [len(found) for found in entries(client).values()] == [1, 1]


def test_a_load_during_a_create_waits_and_then_loads(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "one"})
        write(client, 2)
        with qemu_stands_still(client):
            creating = Started(vm, "create", vm.name, "two")
            wait_busy(client, "create")
            loading = Started(vm, "load", "--discard", vm.name, "one")
            wait_asked(vm, "snapshot-load", 1)
        assert [command.wait()[0] for command in (creating, loading)] == [0, 0]
        assert contents(vm, client) == [1, 1]
        assert client.execute("query-current-snapshot")["name"] == "one"
        client.execute("snapshot-load", {"name": "two", "keep": False})
        assert contents(vm, client) == [2, 2]


def test_no_wait_is_refused_while_another_command_works_and_lists_come_all_the_same(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "one"})
        with qemu_stands_still(client):
            first = Started(vm, "create", vm.name, "two")
            wait_busy(client, "create")
            for command in (
                ["create", vm.name, "three"],
                ["load", vm.name, "one"],
                ["delete", vm.name, "one"],
                ["rename", vm.name, "one", "three"],
                ["describe", vm.name, "one", "words"],
            ):
                error = fails_json(vm, *command, "--no-wait", code=4)
                assert (error["code"], "is busy with a create" in error["message"]) == ("busy", True)
            assert [snapshot["name"] for snapshot in vm.cli_json("list", vm.name)] == ["one"]
            assert [entry["name"] for entry in vm.cli_json("log", vm.name)] == ["one"]
        assert first.wait()[0] == 0
        vm.cli("create", vm.name, "three", "--no-wait")
        assert [snapshot["name"] for snapshot in client.execute("query-snapshots")] == ["one", "two", "three"]


def test_stop_during_a_create_lets_it_end_first(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))
    with vm.qmp() as client, qemu_stands_still(client):
        creating = Started(vm, "create", vm.name, "s")
        wait_busy(client, "create")
        stopping = Started(vm, "stop", "--discard", vm.name)
        wait_asked(vm, "snapshot-create", 1)
    ended = [command.wait() for command in (creating, stopping)]
    assert [code for code, *_ in ended] == [0, 0], ended
    (s,) = vm.cli_json("list", vm.name)
    assert s["consistent"]
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-load", {"name": "s", "keep": False})


def test_what_was_created_is_said_also_where_the_vm_was_stopped_before_the_command_asked_for_it(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))
    with vm.qmp() as client, qemu_stands_still(client):
        creating = Started(vm, "create", vm.name, "s")
        wait_busy(client, "create")
        creating.send(signal.SIGSTOP)
    vm.cli("stop", "--discard", vm.name)
    creating.send(signal.SIGCONT)
    code, said, error = creating.wait()
    assert (code, error) == (0, "")
    assert said.startswith("created s (")


@pytest.mark.parametrize("operation", ["create", "load", "delete"])
def test_ctrl_c_in_a_command_leaves_its_operation_whole_or_undone(vm_factory: VMFactory, operation: str) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "one"})
        write(client, 2)
        with qemu_stands_still(client):
            words = ["--discard"] * (operation == "load")
            interrupted = Started(vm, operation, *words, vm.name, "two" if operation == "create" else "one")
            wait_busy(client, operation)
            interrupted.send(signal.SIGINT)
            code, _, said = interrupted.wait()
            assert code == 130
            assert "Interrupted" in said
        wait_idle(client)
        assert run_state(client) == "running"
        assert client.execute("query-jobs") == []
        found = client.execute("query-snapshots")
        assert all(snapshot["consistent"] for snapshot in found)
        assert [len(tags) for tags in entries(client).values()] == [len(found)] * 2
        assert contents(vm, client) in ([[1, 1], [2, 2]] if operation == "load" else [[2, 2]])
        for snapshot in found:
            client.execute("snapshot-load", {"id": snapshot["id"], "keep": False})
            assert contents(vm, client) == ([1, 1] if snapshot["name"] == "one" else [2, 2])
        client.execute("snapshot-create", {"name": "three"})


def test_a_client_that_goes_away_during_its_create_leaves_it_whole(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with qemu_stands_still(client), vm.qmp() as leaving:
            leaving.send("snapshot-create", {"name": "s"})
            wait_busy(client, "create")
            leaving.close()
        assert client.wait_event("SNAPSHOT_CREATED")["data"]["name"] == "s"
        assert run_state(client) == "running"
        client.execute("snapshot-load", {"name": "s", "keep": False})
