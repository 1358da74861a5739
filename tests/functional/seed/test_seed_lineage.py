"""Current, previous, inheritance: what QEMU doesn't know of, and ours.

The session is the one of the wiki page: a, b, c, d, back to b, then e.
"""

from __future__ import annotations

from itertools import pairwise

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, plain_qemu, under_care

NIL = "00000000-0000-0000-0000-000000000000"


def type_session(client: QMPClient, loadvm: str) -> None:
    """Type the session at a monitor."""
    for pattern, line in enumerate(["savevm a", "savevm b", "savevm c", "savevm d", f"{loadvm}b", "savevm e"], 1):
        if line != "savevm e":
            write(client, pattern)
        assert client.hmp(line) == ""


def test_qemu_alone_tells_neither_what_a_snapshot_descends_from_nor_what_is_current(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        type_session(plain.qmp, "loadvm ")
        listed = [(str(number), tag) for number, tag in enumerate("abcde", 1)]
        assert list(entries(plain.qmp).values()) == [listed, listed]
        found = next(
            node["image"]["snapshots"]
            for node in plain.qmp.execute("query-named-block-nodes", {"flat": True})
            if node["drv"] == "qcow2"
        )
        known = {"id", "name", "vm-state-size", "date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec", "icount"}
        assert {member for snapshot in found for member in snapshot} <= known
        commands = {command["name"] for command in plain.qmp.execute("query-commands")}
        assert not commands & {"query-snapshots", "query-current-snapshot", "query-snapshot-history"}


def test_e_descends_from_b_whatever_ids_and_dates_say(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm), memory="full"), vm.qmp() as client:
        type_session(client, "loadvm tag=")
        found = {snapshot["name"]: snapshot for snapshot in client.execute("query-snapshots")}
        assert {name: snapshot["parent_name"] for name, snapshot in found.items()} == {
            "a": "",
            "b": "a",
            "c": "b",
            "d": "c",
            "e": "b",
        }
        assert found["a"]["parent_id"] == NIL
        assert found["e"]["parent_id"] == found["c"]["parent_id"] == found["b"]["id"]
        assert all(older["created"] < newer["created"] for older, newer in pairwise(found.values()))
        assert found["e"]["vm_clock"] >= found["b"]["vm_clock"]
        client.execute("snapshot-load", {"name": "e", "keep": False})
        assert contents(vm, client) == [2, 2]


def assert_lineage(vm: TestVM) -> None:
    """Assert that tree, list, current and log tell of the session."""
    names = [snapshot["name"] for snapshot in vm.cli_json("list", vm.name) if snapshot["current"]]
    assert names == ["e"]
    (a,) = vm.cli_json("tree", vm.name)
    (b,) = a["children"]
    c, e = b["children"]
    (d,) = c["children"]
    assert [a["name"], b["name"], c["name"], d["name"], e["name"]] == ["a", "b", "c", "d", "e"]
    assert d["children"] == e["children"] == []
    assert vm.cli_json("status", vm.name)["current"] == {"known": True, "name": "e", "id": e["id"], "why": ""}
    log = [(entry["action"], entry["name"], entry["from_name"]) for entry in vm.cli_json("log", vm.name)]
    assert log == [
        ("create", "a", ""),
        ("create", "b", "a"),
        ("create", "c", "b"),
        ("create", "d", "c"),
        ("load", "b", "d"),
        ("create", "e", "b"),
    ]


def test_current_and_history_are_known_also_when_the_vm_is_stopped_and_runs_again(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm), memory="full"), vm.qmp() as client:
        type_session(client, "loadvm tag=")
        assert_lineage(vm)
    assert_lineage(vm)
    with under_care(vm, bare(vm), memory="full"):
        assert_lineage(vm)


def test_current_is_what_was_created_or_loaded_last(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm), memory="full"), vm.qmp() as client:
        current = client.execute("query-current-snapshot")
        assert current == {"known": True, "name": "", "id": None, "why": ""}
        for line, now in [("savevm a", "a"), ("savevm b", "b"), ("loadvm tag=a", "a"), ("loadvm tag=b", "b")]:
            assert client.hmp(line) == ""
            assert client.execute("query-current-snapshot")["name"] == now


def test_the_monitor_shows_parent_and_current(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm), memory="full"), vm.qmp() as client:
        type_session(client, "loadvm tag=")
        head, *rows = client.hmp("info snapshots").split("\r\n")[1:-1]
        tag, id, parent = head.index("TAG"), head.index("ID"), head.index("PARENT")
        assert [(row[:tag].strip(), row[tag:id].strip(), row[parent:].split()[0]) for row in rows] == [
            ("", "a", "-"),
            ("", "b", "a"),
            ("", "c", "b"),
            ("", "d", "c"),
            ("*", "e", "b"),
        ]
