"""undo brings back where the VM was before its last load, every byte of it, and a second undo undoes the first."""

from __future__ import annotations

import json

import pytest
from tests.conftest import VMFactory
from tests.framework.ram import differing
from tests.functional.main.moments import go_on
from tests.functional.main.patterns import contents, write
from tests.functional.main.terminal import terminal
from tests.functional.main.untouched import fails, fails_json
from tests.functional.traps.safety import refusal
from tests.functional.undo.moves import (
    automatic,
    cont,
    current,
    parents,
    place_of,
    ram_of,
    run_bare,
    shown,
    stand,
    started,
)

from snaptree.places import forks


def test_undo_brings_back_the_moment_before_the_load_and_undo_of_undo_that_before_the_undo(
    vm_factory: VMFactory,
) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    before = stand(vm)
    done = vm.cli_json("load", vm.name, "a")
    (kept,) = automatic(vm)
    assert (done["name"], done["kept"]) == ("a", kept)
    there = next(s for s in shown(vm) if s["name"] == kept)
    assert (there["parent_name"], there["memory"], there["description"]) == ("a", "pages", "before the load of a")
    cont(vm)
    stand(vm)
    cont(vm)
    second = stand(vm)  # the same states come again in the same time: one more is another one for sure
    assert differing(before, second)
    undone = vm.cli_json("undo", vm.name)
    assert (undone["name"], undone["current"]) == (kept, True)
    assert differing(before, ram_of(vm)) == []
    again = vm.cli_json("undo", vm.name)
    assert again["name"] == undone["kept"]
    assert again["kept"] is None  # it had not run since the first
    assert differing(second, ram_of(vm)) == []
    assert parents(vm) == {"a": "", kept: "a", undone["kept"]: "a"}
    cont(vm)
    vm.assert_guest_ok()
    assert vm.cli_json("check", vm.name)["ok"]


def test_what_has_not_run_is_not_kept_and_undo_goes_back_to_the_snapshot_that_was_current(
    vm_factory: VMFactory,
) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    before = stand(vm)
    vm.cli("create", vm.name, "b")
    assert vm.cli_json("load", vm.name, "a")["kept"] is None
    assert vm.cli_json("undo", vm.name)["name"] == "b"
    assert differing(before, ram_of(vm)) == []
    assert vm.cli_json("undo", vm.name)["name"] == "a"
    assert set(parents(vm)) == {"a", "b"}


def test_a_vm_in_which_only_a_disk_has_changed_is_kept(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("stop")
        write(client, 1)
        client.execute("snapshot-create", {"name": "a"})
        assert client.execute("query-vm-changed")["changed"] is False
        write(client, 2, ["virtio1"])
        assert client.execute("query-vm-changed") == {
            "changed": True,
            "memory": "pages",
            "current": "a",
            "reasons": [],
        }
        client.execute("snapshot-load", {"name": "a"})
        (loaded,) = [event["data"] for event in client.events if event["event"] == "SNAPSHOT_LOADED"]
        assert [loaded["kept"]] == automatic(vm)
        client.execute("snapshot-undo")
        assert contents(vm, client) == [1, 2]


def test_the_last_five_automatic_ones_stay_and_those_that_something_stands_on(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("stop")
        client.execute("snapshot-create", {"name": "a"})
        for number in range(3):
            write(client, 10 + number)
            client.execute("snapshot-load", {"name": "a"})
        first, second, third = automatic(vm)
        (vm.home / "vms" / "fork").mkdir()
        forks.pin(place_of(vm), "fork", next(s["id"] for s in shown(vm) if s["name"] == first))
        client.execute("snapshot-load", {"name": second})
        client.execute("snapshot-create", {"name": "child"})
        client.execute("snapshot-rename", {"name": third, "new-name": "mine"})
        client.execute("snapshot-load", {"name": "a"})
        ids = {snapshot["name"]: snapshot["id"] for snapshot in shown(vm)}
        for number in range(6):
            write(client, 20 + number)
            client.execute("snapshot-load", {"name": "a"})
        left = [snapshot["id"] for snapshot in shown(vm) if snapshot["automatic"]]
        assert len(left) == 6
        assert left[0] == ids[first]
        assert ids[second] not in left
        found = parents(vm)
        assert found["child"] == "a"  # its parent is gone, and it went to that one's
        assert found["mine"] == "a"
        assert all(snapshot["consistent"] for snapshot in shown(vm))
        client.execute("snapshot-undo")
        assert contents(vm, client) == [25, 25]
        client.execute("snapshot-load", {"name": "mine"})
        assert contents(vm, client) == [12, 12]
        client.execute("snapshot-load", {"name": first})
        assert contents(vm, client) == [10, 10]
    assert vm.cli_json("check", vm.name)["ok"]


def test_what_was_discarded_cannot_be_undone_and_undo_says_what_was_current(vm_factory: VMFactory) -> None:
    vm = started(vm_factory())
    assert "nothing to undo" in fails(vm, "undo", vm.name, code=4)
    vm.cli("create", vm.name, "a")
    vm.cli("create", vm.name, "b")
    go_on(vm)
    vm.cli("load", "--discard", vm.name, "a")
    said = fails(vm, "undo", vm.name, code=4)
    assert "discarded" in said
    assert "load dev b" in said
    assert automatic(vm) == []
    go_on(vm)
    kept = vm.cli_json("load", vm.name, "b")["kept"]
    vm.cli("load", "--discard", vm.name, "a")
    vm.cli("load", vm.name, "b")
    vm.cli("delete", vm.name, automatic(vm)[-1])
    assert fails_json(vm, "undo", vm.name, code=3)["code"] == "no-such-snapshot"
    assert kept in automatic(vm)


def test_a_lost_catalog_comes_back_with_what_undo_goes_back_to(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        write(client, 1)
        client.execute("snapshot-load", {"name": "a"})
    (kept,) = automatic(vm)
    vm.cli("stop", "--discard", vm.name)
    before = shown(vm)
    for path in (vm.home / "vms" / vm.name).glob("catalog.sqlite*"):
        path.unlink()
    vm.cli("repair", "--yes", vm.name)
    assert shown(vm) == before
    assert vm.cli_json("undo", vm.name)["name"] == kept
    assert contents(vm) == [1, 1]


def test_a_load_in_full_asks_on_a_terminal_and_does_what_is_answered(vm_factory: VMFactory) -> None:
    vm = started(vm_factory(), "--memory", "full")
    vm.cli("create", vm.name, "a")
    go_on(vm)
    for answer, kept, code in (("q", 0, 4), ("n", 0, 0), ("y", 1, 0)):
        go_on(vm)
        with terminal(vm, "load", vm.name, "a") as typed:
            typed.wait_for("Keep how it is now")
            typed.type(f"{answer}\n")
            assert typed.wait() == code, typed.said()
        assert len(automatic(vm)) == kept
    assert current(vm) == "a"
    assert next(s for s in shown(vm) if s["automatic"])["memory"] == "full"
    with terminal(vm, "undo", vm.name) as typed:
        typed.wait_for("Keep how it is now")
        typed.type("n\n")
        assert typed.wait() == 0, typed.said()
    assert [current(vm)] == automatic(vm)


def test_a_load_in_full_wants_a_word_in_scripts_and_only_where_there_is_something_to_keep(
    vm_factory: VMFactory,
) -> None:
    vm = started(vm_factory(), "--memory", "full")
    vm.cli("create", vm.name, "a")
    go_on(vm)
    said = fails(vm, "load", vm.name, "a", code=2)
    assert "--keep" in said
    assert "--discard" in said
    kept = vm.cli_json("load", "--keep", vm.name, "a")["kept"]
    assert automatic(vm) == [kept]
    with vm.qmp() as client:
        client.execute("stop")
    assert fails_json(vm, "undo", vm.name, code=2)["code"] == "usage"  # it ran for a moment
    assert vm.cli_json("undo", "--discard", vm.name)["name"] == kept
    assert vm.cli_json("load", vm.name, "a")["kept"] is None


@pytest.mark.parametrize(("way", "keeps"), [("full", False), ("pages", True)])
def test_qmp_and_the_monitor_keep_in_pages_and_discard_in_full(vm_factory: VMFactory, way: str, keeps: bool) -> None:
    vm = started(vm_factory(), "--memory", way)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        go_on(vm)
        client.execute("snapshot-load", {"name": "a"})
        assert len(automatic(vm)) == keeps
        go_on(vm)
        assert client.hmp("loadvm tag=a") == ""
        assert len(automatic(vm)) == 2 * keeps
        if not keeps:
            assert refusal(client, "snapshot-undo", {})["code"] == "refused"
        go_on(vm)
        client.execute("snapshot-load", {"name": "a", "keep": True})
        assert len(automatic(vm)) == 2 * keeps + 1
        go_on(vm)
        client.execute("snapshot-load", {"name": "a", "keep": False})
        assert len(automatic(vm)) == 2 * keeps + 1
    vm.assert_guest_ok()


def test_a_load_that_is_refused_keeps_nothing(vm_factory: VMFactory) -> None:
    vm = started(vm_factory())
    vm.cli("create", vm.name, "a")
    vm.tool("qemu-img", "snapshot", "-l", "-U", str(vm.disks[0]))
    with vm.qmp() as client:
        client.execute(
            "block-dirty-bitmap-add", {"node": _node(client.execute("query-named-block-nodes")), "name": "b"}
        )
    go_on(vm)
    assert fails_json(vm, "load", vm.name, "a", code=4)["code"] == "not-ready"
    assert automatic(vm) == []


def _node(nodes: list[dict[str, object]]) -> str:
    return str(next(node["node-name"] for node in nodes if node["drv"] == "qcow2"))


def test_the_lists_mark_what_was_taken_automatically(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        write(client, 1)
        client.execute("snapshot-load", {"name": "a"})
    (kept,) = automatic(vm)
    assert "(automatic) before the load of a" in vm.cli("list", vm.name).stdout
    line = next(line for line in vm.cli("tree", vm.name).stdout.splitlines() if kept in line)
    assert "  automatic" in line
    assert "automatically" in vm.cli("show", vm.name, kept).stdout
    assert [entry["action"] for entry in json.loads(vm.cli("log", "--json", vm.name).stdout)] == ["create"] * 2 + [
        "load"
    ]
