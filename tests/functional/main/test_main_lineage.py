"""Delete, rename, describe: what they do to the tree, and that the images follow."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, run_state, under_care

NIL = "00000000-0000-0000-0000-000000000000"


def grow(client: QMPClient) -> None:
    """Make a with the children b and e, b with c and d; d is current.  Each has its own number on the disks."""
    for pattern, (name, parent) in enumerate([("a", ""), ("b", "a"), ("c", "b"), ("d", "b"), ("e", "a")], 1):
        if parent:
            client.execute("snapshot-load", {"name": parent, "keep": False})
        write(client, pattern)
        client.execute("snapshot-create", {"name": name})
    client.execute("snapshot-load", {"name": "d", "keep": False})


def parents(client: QMPClient) -> dict[str, str]:
    """Return the name of each snapshot's parent; every snapshot must be whole."""
    found = client.execute("query-snapshots")
    assert all(snapshot["consistent"] for snapshot in found), found
    return {snapshot["name"]: snapshot["parent_name"] for snapshot in found}


def current(client: QMPClient) -> str:
    """Return the name of the current snapshot."""
    return str(client.execute("query-current-snapshot")["name"])


def in_images(client: QMPClient) -> set[str]:
    """Return the first names of the snapshots in the images, which must be the same in all."""
    (names,) = {tuple(tag.partition("@")[0] for _, tag in found) for found in entries(client).values()}
    return set(names)


def test_children_of_a_deleted_snapshot_go_to_its_parent(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        assert parents(client) == {"a": "", "b": "a", "c": "b", "d": "b", "e": "a"}
        assert vm.cli("delete", vm.name, "b").stdout.startswith("deleted b (")
        assert parents(client) == {"a": "", "c": "a", "d": "a", "e": "a"}
        assert current(client) == "d"
        assert in_images(client) == {"a", "c", "d", "e"}
        assert run_state(client) == "running"
        vm.cli("delete", vm.name, "a")
        assert parents(client) == {"c": "", "d": "", "e": ""}
        assert {snapshot["parent_id"] for snapshot in client.execute("query-snapshots")} == {NIL}
        for name, pattern in (("c", 3), ("e", 5), ("d", 4)):
            client.execute("snapshot-load", {"name": name, "keep": False})
            assert contents(vm, client) == [pattern, pattern]


def test_deleting_the_current_snapshot_makes_its_parent_current_and_changes_no_disk(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        write(client, 9)
        for now in ("b", "a"):
            vm.cli("delete", vm.name, current(client))
            assert current(client) == now
        vm.cli("delete", vm.name, "a")
        assert client.execute("query-current-snapshot") == {"known": True, "name": "", "id": None, "why": ""}
        assert contents(vm, client) == [9, 9]
        client.execute("snapshot-create", {"name": "root"})
        assert parents(client)["root"] == ""


def test_delete_with_children_takes_the_subtree_and_nothing_else(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        deleted = vm.cli_json("delete", vm.name, "b", "--children")["deleted"]
        assert {snapshot["name"] for snapshot in deleted} == {"b", "c", "d"}
        assert parents(client) == {"a": "", "e": "a"}
        assert current(client) == "a"
        assert in_images(client) == {"a", "e"}
        assert vm.cli("load", "--discard", vm.name, "c", check=False).returncode == 3
        log = [(entry["action"], entry["name"]) for entry in vm.cli_json("log", vm.name)]
        assert sorted(log[-3:]) == [("delete", "b"), ("delete", "c"), ("delete", "d")]


def without_words(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot without what can be changed of it."""
    return {key: value for key, value in snapshot.items() if key not in ("name", "description")}


def test_rename_and_describe_change_words_only_and_the_old_name_is_gone(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        before, listed = client.execute("query-snapshot", {"name": "a"}), entries(client)
        assert vm.cli("rename", vm.name, "a", "base").stdout == "renamed a to base\n"
        vm.cli("describe", vm.name, "base", "a clean\ninstall, größer")
        after = client.execute("query-snapshot", {"name": "base"})
        assert (after["name"], after["description"]) == ("base", "a clean\ninstall, größer")
        assert without_words(after) == without_words(before)
        assert entries(client) == listed
        assert parents(client)["b"] == "base"
        assert vm.cli("show", vm.name, "a", check=False).returncode == 3
        vm.cli("load", "--discard", vm.name, "base")
        assert contents(vm, client) == [1, 1]
        log = [(entry["action"], entry["name"], entry["result"]) for entry in vm.cli_json("log", vm.name)]
        assert log[-3:] == [("rename", "base", "ok, was a"), ("describe", "base", "ok"), ("load", "base", "ok")]


def test_a_stopped_vm_is_listed_renamed_and_described_as_a_running_one(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        running = [vm.cli(command, vm.name, "--json").stdout for command in ("list", "tree", "log")]
    assert [vm.cli(command, vm.name, "--json").stdout for command in ("list", "tree", "log")] == running
    vm.cli("rename", vm.name, "a", "base")
    vm.cli("describe", vm.name, "base", "clean")
    assert vm.cli_json("show", vm.name, "base")["description"] == "clean"
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert parents(client) == {"base": "", "b": "base", "c": "b", "d": "b", "e": "base"}
        client.execute("snapshot-load", {"name": "base", "keep": False})
        assert contents(vm, client) == [1, 1]


def test_a_snapshot_is_found_by_its_id_or_a_prefix_of_8_digits(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        grow(client)
        ids = {snapshot["name"]: snapshot["id"] for snapshot in client.execute("query-snapshots")}
        assert vm.cli_json("show", vm.name, "--id", ids["c"][:8].upper())["name"] == "c"
        assert (
            json.loads(vm.cli("load", "--discard", vm.name, "--id", ids["c"][:13], "--json").stdout)["id"] == ids["c"]
        )
        vm.cli("rename", vm.name, "--id", ids["c"], "c-2")
        vm.cli("describe", vm.name, "--id", ids["c"], "found")
        assert vm.cli_json("show", vm.name, "c-2")["description"] == "found"
        vm.cli("delete", vm.name, "--id", ids["c"])
        assert set(parents(client)) == {"a", "b", "d", "e"}


def test_the_description_and_the_figures_of_a_create_are_kept(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        done = vm.cli_json("create", vm.name, "s", "-m", "clean install")
        assert done["description"] == "clean install"
        assert 0 < done["pause_ms"] <= done["duration_ms"]
        (listed,) = client.execute("query-snapshots")
        assert {key: value for key, value in done.items() if key not in ("pause_ms", "duration_ms")} == listed
        (entry,) = vm.cli_json("log", vm.name)
        assert (entry["pause_ms"], entry["duration_ms"]) == (done["pause_ms"], done["duration_ms"])
        assert "clean install" in vm.cli("tree", vm.name).stdout


def test_a_snapshot_may_have_any_name_that_is_no_number_id_or_json_word(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    names = ["a", "A", "0a", "1.2.3", "x" * 128, "before-upgrade_2.0", "1_000x", "NaN-", "e5", "load", "nullx"]
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for name in names:
            client.execute("snapshot-create", {"name": name})
        assert parents(client) == dict(zip(names, ["", *names], strict=False))
        assert vm.cli_json("load", "--discard", vm.name, "A")["parent_name"] == "a"
        vm.cli("delete", vm.name, "load")
        assert set(parents(client)) == {*names} - {"load"}
