"""What isn't ours passes unchanged, both ways: the same QEMU is asked through us and without us."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.functional.qmp.serving import answer, raw_client, served

from snaptree.server.commands import COMMANDS

OURS = set(COMMANDS)
"""The documents and their test say which these are."""
REFUSED = {"snapshot-save", "blockdev-snapshot-internal-sync", "blockdev-snapshot-delete-internal-sync"}
MERGED = {"query-commands", "query-qmp-schema"}

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "query-cpu-model-expansion": [
        {"type": "static", "model": {"name": "qemu64"}},
        {"type": "full", "model": {"name": "qemu64", "props": {"avx": True}}},
        {"type": "full", "model": {"name": "no such"}},
    ],
    "query-named-block-nodes": [{}, {"flat": True}],
    "query-blockstats": [{}, {"query-nodes": True}],
    "query-command-line-options": [{}, {"option": "drive"}],
    "query-stats": [{"target": "vm"}, {"target": "vcpu"}],
    "query-stats-schemas": [{}],
    "query-rocker": [{"name": "no-such"}],
    "query-rocker-ports": [{"name": "no-such"}],
    "qom-list": [{"path": path} for path in ("/", "/machine", "/machine/peripheral-anon/device[0]", "/no/such")],
    "qom-get": [
        *({"path": "/machine", "property": property} for property in ("type", "usb", "no-such")),
        *({"path": "/machine/peripheral-anon/device[0]/virtio-backend", "property": p} for p in ("drive", "realized")),
    ],
    "qom-list-properties": [{"typename": "virtio-blk-pci"}, {"typename": "no-such"}],
    "device-list-properties": [{"typename": "virtio-blk-pci"}, {"typename": "machine"}],
    "block-dirty-bitmap-remove": [{"node": "no-such", "name": "x"}],
    "job-dismiss": [{"id": "no-such"}],
    "blockdev-del": [{"node-name": "no-such"}],
    "closefd": [{"fdname": "no-such"}],
    "human-monitor-command": [
        *({"command-line": line} for line in ("", "no such", "info", "info version", "print 6*7", "help cont", "c/")),
        {"command-line": "info cpus", "cpu-index": 7},
    ],
}

CHANGING_ITSELF = {"query-blockstats", "query-stats"}
"""Their answers count time."""


def masked(value: Any) -> Any:
    """Return the value without the numbers in it."""
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return 0 if isinstance(value, int | float) else value


def test_every_query_and_every_harmless_command_is_answered_as_without_us(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm) as own, vm.qmp() as client:
        names = {entry["name"] for entry in own.execute("query-commands")}
        tried = {name for name in names if name.startswith("query-")} | ARGUMENTS.keys()
        assert len(tried) > 60
        for name in sorted(tried - MERGED):
            for arguments in ARGUMENTS.get(name, [{}]):
                without, through = answer(own, name, arguments), answer(client, name, arguments)
                if name in CHANGING_ITSELF:
                    without, through = masked(without), masked(through)
                assert through == without, (name, arguments)


def test_every_command_names_a_wrong_argument_as_without_us(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm) as own, vm.qmp() as client:
        names = {entry["name"] for entry in own.execute("query-commands")}
        assert len(names) > 150
        for name in sorted(names - OURS - REFUSED - {"qmp_capabilities"}):
            wrong = {"no such argument": 1}
            without = answer(own, name, wrong)
            assert without[0] == "error", name
            assert answer(client, name, wrong) == without, name
        client.execute("query-status")


def test_commands_and_schema_are_qemus_and_ours(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        commands = [entry["name"] for entry in client.execute("query-commands")]
        assert len(commands) == len(set(commands))
        assert set(commands) == {entry["name"] for entry in own.execute("query-commands")} | OURS

        qemus = {entry["name"]: entry for entry in own.execute("query-qmp-schema")}
        merged = client.execute("query-qmp-schema")
        entries = {entry["name"]: entry for entry in merged}
        assert len(entries) == len(merged)
        assert {name for name, entry in entries.items() if entry["meta-type"] == "command"} == set(commands)
        kept = qemus.keys() - OURS
        assert {name: entries[name] for name in kept} == {name: qemus[name] for name in kept}


def referred_to(entry: dict[str, Any]) -> list[str]:
    """Return the types that an entry of the schema names, as QEMU's ``qapi/introspect.json`` has them."""
    match entry["meta-type"]:
        case "builtin" | "enum":
            return []
        case "array":
            return [entry["element-type"]]
        case "object":
            return [part["type"] for part in (*entry["members"], *entry.get("variants", ()))]
        case "alternate":
            return [part["type"] for part in entry["members"]]
        case "command":
            return [entry["arg-type"], entry["ret-type"]]
        case "event":
            return [entry["arg-type"]]
    raise AssertionError(entry)


def test_the_merged_schema_is_whole(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client:
        entries = {entry["name"]: entry for entry in client.execute("query-qmp-schema")}
        for entry in entries.values():
            for name in referred_to(entry):
                assert entries[name]["meta-type"] not in ("command", "event"), entry
            if entry["meta-type"] in ("command", "event"):
                assert entries[entry["arg-type"]]["meta-type"] == "object", entry
            if entry["meta-type"] == "object" and "tag" in entry:
                assert entry["tag"] in {member["name"] for member in entry["members"]}, entry
            if entry["meta-type"] == "array":
                assert entry["name"] == f"[{entry['element-type']}]"
        events = {name for name, entry in entries.items() if entry["meta-type"] == "event"}
        changes = ("CREATED", "LOADED", "DELETED", "RENAMED", "FAILED")
        assert {"STOP", "RESUME"} | {f"SNAPSHOT_{change}" for change in changes} <= events


def check_type(value: Any, type: str, entries: dict[str, Any]) -> None:
    """Assert that a value is of a type of the schema."""
    entry = entries[type]
    if entry["meta-type"] == "array":
        assert isinstance(value, list)
        for item in value:
            check_type(item, entry["element-type"], entries)
    elif entry["meta-type"] == "object":
        members = {member["name"]: member for member in entry["members"]}
        assert value.keys() <= members.keys(), (type, value.keys() - members.keys())
        assert members.keys() - value.keys() <= {name for name, member in members.items() if "default" in member}
        for name, item in value.items():
            check_type(item, members[name]["type"], entries)
    else:
        kinds: dict[str, Any] = {"string": str, "int": int, "number": (int, float), "boolean": bool, "value": object}
        assert isinstance(value, kinds[entry["json-type"]]), (type, value)
        assert isinstance(value, bool) == (entry["json-type"] == "boolean") or entry["json-type"] == "value"


def test_our_answers_and_events_are_as_the_schema_says(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client:
        entries = {entry["name"]: entry for entry in client.execute("query-qmp-schema")}

        def ask(command: str, **arguments: Any) -> None:
            arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
            known = {member["name"] for member in entries[entries[command]["arg-type"]]["members"]}
            assert arguments.keys() <= known
            check_type(client.execute(command, arguments), entries[command]["ret-type"], entries)

        ask("query-current-snapshot")
        ask("snapshot-create", name="a", description="first")
        ask("snapshot-create", name="b")
        ask("snapshot-load", name="a", allow_resize=True)
        ask("snapshot-rename", name="b", new_name="c")
        ask("snapshot-describe", name="a", description="the first")
        ask("query-snapshot-status")
        ask("query-snapshot-status", reasons=True)
        client.hmp("savevm d")
        ask("query-snapshots")
        ask("query-snapshots", tree=True)
        ask("query-snapshots", foreign=True)
        ask("query-snapshot", name="a")
        ask("query-snapshot-history", limit=3)
        ask("query-current-snapshot")
        ask("query-vm")
        ask("snapshot-delete", name="a", children=True)
        ours = [event for event in client.events if event["event"].startswith("SNAPSHOT_")]
        assert len(ours) >= 6
        for event in ours:
            check_type(event["data"], entries[event["event"]]["arg-type"], entries)


def test_events_come_with_qemus_own_timestamps_in_qemus_order(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        node = {"driver": "null-co", "node-name": "n", "read-zeroes": True}
        for command, arguments in (
            ("cont", {}),
            ("stop", {}),
            ("blockdev-add", node),
            ("blockdev-create", {"job-id": "j", "options": {"driver": "file", "filename": f"{vm.root}/x", "size": 9}}),
            ("cont", {}),
            ("stop", {}),
        ):
            client.execute(command, arguments)
        client.wait_event("JOB_STATUS_CHANGE", id="j", status="concluded")
        client.execute("job-dismiss", {"id": "j"})
        own.execute("query-status")
        client.execute("query-status")
        kinds = [event["event"] for event in own.events]
        assert kinds.count("STOP") == kinds.count("RESUME") == 2
        assert "JOB_STATUS_CHANGE" in kinds
        assert client.events == own.events


def test_texts_pass_both_ways_unchanged(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm) as own, vm.qmp() as client:
        client.execute("chardev-add", {"id": "r", "backend": {"type": "ringbuf", "data": {"size": 1024}}})
        for text in ("", "a b", "ü€🎉", "\\ \" ' / \x7f", "\t\r\n\b\f", "%d %s %%"):
            for writer, reader in ((client, own), (own, client)):
                writer.execute("ringbuf-write", {"device": "r", "data": text})
                assert reader.execute("ringbuf-read", {"device": "r", "size": 1024}) == text


def test_numbers_pass_both_ways_unchanged(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm) as own, vm.qmp() as client:
        client.execute("object-add", {"qom-type": "throttle-group", "id": "t"})
        for number in (9007199254740993, 0, 4611686018427387905):
            limit = {"path": "/objects/t", "property": "x-bps-read", "value": number}
            without = answer(own, "qom-set", limit)
            assert answer(client, "qom-set", limit) == without
            got = {"path": "/objects/t", "property": "x-bps-read"}
            assert answer(client, "qom-get", got) == answer(own, "qom-get", got)


def test_what_python_cannot_write_passes_too_and_the_session_to_qemu_lives_on(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    deep = b"[" * 1000 + b"]" * 1000
    with served(vm), raw_client(vm) as client:
        for value in (b"1e999", b"-1e999", deep, b'{"a":' * 1000 + b"1" + b"}" * 1000, b"9" * 400, b'"\xc0\x80"'):
            client.send_bytes(b'{"execute": "query-name", "arguments": {"zz": ' + value + b"}}")
            reply = client.receive()
            assert reply["error"] == {"class": "GenericError", "desc": "Parameter 'zz' is unexpected"}
        assert client.execute("query-vm")["run_state"] == "prelaunch"


def test_an_answer_of_many_mebibytes_passes_and_the_session_to_qemu_lives_on(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), vm.qmp() as client:
        text = client.hmp("xp /2500000bx 0x100000")
        assert len(text) > 17 << 20  # more than a client may leave unread
        assert len(re.findall(r"0x00\b", text)) == 2_500_000
        assert client.execute("query-status")["running"] is False


def test_a_client_that_has_ended_its_side_gets_all_its_answers(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), raw_client(vm) as client:
        numbers = [client.send("query-qmp-schema") for _ in range(20)]
        client.hang_up()
        for number in numbers:
            assert len(client.reply("query-qmp-schema", number)) > 500
        with pytest.raises(AssertionError, match="closed the connection"):
            client.receive()


def test_out_of_band_execution_is_not_offered(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm) as own:
        client: QMPClient = vm.qmp(negotiate=False)
        assert own.greeting["QMP"]["capabilities"] == ["oob"]
        assert client.greeting == {"QMP": {**own.greeting["QMP"], "capabilities": []}}
        enable = answer(client, "qmp_capabilities", {"enable": ["oob"]})
        assert enable == ("error", {"class": "GenericError", "desc": "Capability oob not available"})
        client.execute("qmp_capabilities")
        client.send_bytes(b'{"exec-oob": "query-status"}')
        assert client.receive()["error"]["desc"] == "QMP input member 'exec-oob' is unexpected"
