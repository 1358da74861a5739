"""Our events: what happened to a snapshot, told to every client before the answer of the one that asked for it."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.functional.qmp.serving import served
from tests.functional.traps.safety import bare, trace_stop, with_meanwhile


def ours(client: QMPClient) -> list[tuple[str, dict[str, Any]]]:
    """Return our events so far, without their times."""
    return [(e["event"], e["data"]) for e in client.events if e["event"].startswith("SNAPSHOT_")]


def test_every_change_is_told_with_name_id_and_duration_before_its_answer(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as watcher, vm.qmp() as client:
        steps: tuple[tuple[str, dict[str, Any], str, list[str]], ...] = (
            ("snapshot-create", {"name": "a"}, "SNAPSHOT_CREATED", ["a"]),
            ("snapshot-create", {"name": "b"}, "SNAPSHOT_CREATED", ["b"]),
            ("human-monitor-command", {"command-line": "savevm c"}, "SNAPSHOT_CREATED", ["c"]),
            ("snapshot-load", {"name": "a", "keep": False}, "SNAPSHOT_LOADED", ["a"]),
            ("human-monitor-command", {"command-line": "loadvm tag=b"}, "SNAPSHOT_LOADED", ["b"]),
            ("snapshot-rename", {"name": "c", "new-name": "d"}, "SNAPSHOT_RENAMED", ["d"]),
            ("human-monitor-command", {"command-line": "delvm tag=d"}, "SNAPSHOT_DELETED", ["d"]),
            ("snapshot-create", {"name": "e"}, "SNAPSHOT_CREATED", ["e"]),
            ("snapshot-delete", {"name": "a", "children": True}, "SNAPSHOT_DELETED", ["e", "b", "a"]),
        )
        ids: dict[str, str] = {}
        for command, arguments, kind, names in steps:
            ids |= {s["name"]: s["id"] for s in client.execute("query-snapshots")}
            before = len(ours(client))
            client.execute(command, arguments)
            ids |= {s["name"]: s["id"] for s in client.execute("query-snapshots")}
            told = ours(client)[before:]
            assert [(event, data["name"]) for event, data in told] == [(kind, name) for name in names]
            for _, data in told:
                more = {"kept", "not_kept"} if kind == "SNAPSHOT_LOADED" else set()
                assert set(data) == {"name", "id", "duration_ms"} | more
                assert data["id"] == ids[data["name"]]
                assert data["duration_ms"] > 0
        watcher.execute("query-status")
        assert watcher.events == client.events


def test_what_was_refused_is_no_event(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        told = ours(client)
        for command, arguments in (
            ("snapshot-create", {"name": "a"}),
            ("snapshot-create", {"name": "7"}),
            ("snapshot-load", {"name": "b", "keep": False}),
            ("snapshot-delete", {"id": "00000000"}),
            ("snapshot-rename", {"name": "a", "new-name": "a b"}),
        ):
            with pytest.raises(QMPError):
                client.execute(command, arguments)
        assert client.execute("query-status")["running"] is False
        assert ours(client) == told


def test_a_create_that_fails_is_told_with_operation_and_error(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    trace_stop(vm, "create.paused")
    with served(vm) as own, vm.qmp() as watcher, vm.qmp() as client:

        def continue_behind_our_back() -> None:
            own.execute("cont")

        with pytest.raises(QMPError, match="Another monitor of this QEMU continued the VM") as failure:
            with_meanwhile(client, "snapshot-create", {"name": "a"}, continue_behind_our_back)
        own.execute("stop")
        watcher.execute("query-status")
        ((kind, data),) = ours(watcher)
        assert kind == "SNAPSHOT_FAILED"
        assert set(data) == {"name", "id", "duration_ms", "operation", "error"}
        assert (data["name"], data["operation"]) == ("a", "create")
        assert data["error"] == failure.value.desc
        (entry,) = client.execute("query-snapshot-history")
        assert (entry["id"], entry["result"]) == (data["id"], f"failed: {data['error']}")
        assert ours(client) == ours(watcher)


def test_a_load_that_fails_is_told_with_operation_and_error(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    trace_stop(vm, "load.paused")
    with served(vm) as own, vm.qmp() as watcher, vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})

        def take_the_tag_away() -> None:
            own.hmp("delvm " + next(iter(own.execute("query-block")))["inserted"]["image"]["snapshots"][0]["name"])

        with pytest.raises(QMPError):
            with_meanwhile(client, "snapshot-load", {"name": "a", "keep": False}, take_the_tag_away)
        watcher.execute("query-vm")
        (kind, data) = ours(watcher)[-1]
        assert (kind, data["name"], data["operation"]) == ("SNAPSHOT_FAILED", "a", "load")
        assert data["error"]


def test_a_client_learns_that_qemu_has_gone(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))
    with vm.qmp() as client:
        qemu = client.execute("query-vm")["qemu_pid"]
        os.kill(qemu, signal.SIGSTOP)
        number = client.send("query-status")
        os.kill(qemu, signal.SIGKILL)
        with pytest.raises(QMPError, match="ended before the answer to") as failure:
            client.reply("query-status", number)
        assert failure.value.reply["error"]["code"] == "qemu-gone"
        with pytest.raises(AssertionError, match="closed the connection"):
            client.receive()
