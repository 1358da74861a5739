"""The QMP commands that the wiki page suggests, as it writes them, byte by byte."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, image_bytes, plain_qemu, refusal, run_state, under_care

NIL = "00000000-0000-0000-0000-000000000000"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def say(client: QMPClient, line: str) -> Any:
    """Send a line as it stands, and return the next answer that is no event."""
    client.send_bytes(line.encode())
    while "event" in (answer := client.receive()):
        pass
    return answer


def test_qemu_alone_has_none_of_these_commands(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        for command in ("query-snapshot-status", "query-snapshots", "snapshot-create"):
            with pytest.raises(QMPError, match=f"The command {command} has not been found"):
                plain.qmp.execute(command)
        for command in ("snapshot-load", "snapshot-delete"):
            with pytest.raises(QMPError, match="job-id"):
                plain.qmp.execute(command, {"name": "vm_before_upgrade"})


def test_the_commands_of_the_page_are_answered_as_on_the_page(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm), memory="full"), vm.qmp() as client:
        assert say(client, '{"execute": "query-snapshot-status"}') == {"return": True}
        assert say(client, '{"execute": "query-snapshots"}') == {"return": []}
        write(client, 1)
        create = '{"execute": "snapshot-create", "arguments": {"name": "vm_before_upgrade"} }'
        assert say(client, create) == {"return": {}}
        write(client, 2)
        load = '{"execute": "snapshot-load", "arguments": {"name": "vm_before_upgrade"} }'
        assert say(client, load) == {"return": {}}
        assert contents(vm, client) == [1, 1]
        delete = '{"execute": "snapshot-delete", "arguments": {"name": "vm_before_upgrade"} }'
        assert say(client, delete) == {"return": {}}
        assert say(client, '{"execute": "query-snapshots"}') == {"return": []}


def test_query_snapshots_has_the_members_of_the_page_and_says_the_parent(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for name in ("vm_before_upgrade", "vm_before_upgrade-2"):
            client.execute("snapshot-create", {"name": name})
        one, two = say(client, '{"execute": "query-snapshots"}')["return"]
        assert list(one)[:5] == list(two)[:5] == ["name", "id", "parent_name", "parent_id", "date"]
        assert (one["name"], one["parent_name"], one["parent_id"]) == ("vm_before_upgrade", "", NIL)
        assert (two["name"], two["parent_name"]) == ("vm_before_upgrade-2", "vm_before_upgrade")
        assert two["parent_id"] == one["id"]
        for snapshot in (one, two):
            assert UUID.fullmatch(snapshot["id"])
            digits = snapshot["created"].translate({ord(c): None for c in "-T:"})[:14]
            assert snapshot["date"] == int(digits)
        assert [one["current"], two["current"]] == [False, True]
        assert set(one) == {
            *("name", "id", "parent_name", "parent_id", "date", "created", "vm_clock", "description"),
            *("current", "consistent", "memory", "vm_state_size", "automatic", "devices"),
        }
        assert [set(device) for device in one["devices"]] == [{"device", "node", "file", "present", "size"}] * 2


def test_the_second_form_of_the_page_is_a_tree_of_children(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "vm_before_upgrade"})
        client.execute("snapshot-create", {"name": "vm_before_upgrade-2"})
        client.execute("snapshot-load", {"name": "vm_before_upgrade", "keep": False})
        client.execute("snapshot-create", {"name": "random-backup"})
        (root,) = say(client, '{"execute": "query-snapshots", "arguments": {"tree": true}}')["return"]
        flat = client.execute("query-snapshots")
        assert root["name"] == "vm_before_upgrade"
        assert [child["name"] for child in root["children"]] == ["vm_before_upgrade-2", "random-backup"]
        assert all(child["children"] == [] for child in root["children"])
        nested = [root, *root["children"]]
        assert [{key: child[key] for key in child if key != "children"} for child in nested] == flat


def test_the_name_is_mandatory_and_every_failure_is_an_error_that_changes_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "s"})
        write(client, 2)
        contents(vm, client)  # writes back what QEMU holds
        before = image_bytes(vm), client.execute("query-snapshots"), client.execute("query-snapshot-history")
        for command in ("snapshot-create", "snapshot-load", "snapshot-delete"):
            assert "name" in refusal(client, command, {})["desc"]
            for odd in (7, True, None, ["s"], {"s": 1}):
                assert "name" in refusal(client, command, {"name": odd})["desc"]
        assert refusal(client, "snapshot-create", {"name": "s"})["code"] == "name-taken"
        for command in ("snapshot-load", "snapshot-delete"):
            assert refusal(client, command, {"name": "t"})["code"] == "no-such-snapshot"
            assert refusal(client, command, {"name": "s", "id": "x"})["code"] == "usage"
        assert (image_bytes(vm), client.execute("query-snapshots"), client.execute("query-snapshot-history")) == before
        assert run_state(client) == "running"


def test_query_snapshot_status_is_false_where_a_disk_cannot_hold_a_snapshot_and_says_why(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    raw = vm.root / "c.raw"
    raw.write_bytes(bytes(1 << 20))
    drive = ("-drive", f"file={raw},format=raw,if=virtio")
    with under_care(vm, bare(vm, *drive)), vm.qmp() as client:
        assert say(client, '{"execute": "query-snapshot-status"}') == {"return": False}
        answer = say(client, '{"execute": "query-snapshot-status", "arguments": {"reasons": true}}')["return"]
        assert answer["ready"] is False
        (reason,) = answer["reasons"]
        assert set(reason) == {"code", "device", "message", "remedy"}
        assert reason["device"] == "virtio1"
        assert "qemu-img convert" in reason["remedy"]
