"""Snapshots that others took: shown for what they are, and taken into the tree where they are one moment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.patterns import contents, write
from tests.functional.offline.stopped import codes, current, names, refused, set_disks, stopped_vm, tables
from tests.functional.traps.safety import bare, entries, image_bytes, plain_qemu, run_job, run_state, under_care

from snaptree.engine.entries import ONE_MOMENT_NS
from snaptree.qcow2.image import list_snapshots


def saved(vm: TestVM, *tags: str) -> None:
    """Let QEMU's own `savevm` take snapshots: the disks hold 1 in the first, 2 in the second."""
    with plain_qemu(vm, bare(vm)) as plain:
        for pattern, tag in enumerate(tags, 1):
            write(plain.qmp, pattern)
            assert plain.qmp.hmp(f"savevm {tag}") == ""


def foreign(vm: TestVM) -> dict[str, Any]:
    """Return the foreign snapshots by tag."""
    return {found["name"]: found for found in vm.cli_json("list", vm.name, "--foreign") if found.get("foreign")}


def seed_story(vm: TestVM) -> str:
    """Make the wiki page's two disks: an unnamed savevm with the ids 4 and 3, then `savevm 4`.

    :return: the tag that QEMU gave the unnamed one.  The disks hold 1 in it, 2 in the one called 4, and 3 now.
    """
    for disk, tags in zip(vm.disks, ("xyz", "xy"), strict=True):
        for tag in tags:
            vm.tool("qemu-img", "snapshot", "-c", tag, str(disk))
    with plain_qemu(vm, bare(vm)) as plain:
        write(plain.qmp, 1)
        assert plain.qmp.hmp("savevm") == ""
        write(plain.qmp, 2)
        assert plain.qmp.hmp("savevm 4") == ""
        write(plain.qmp, 3)
        contents(vm, plain.qmp)
    unnamed = tables(vm)[0][3][1]
    assert [table[-2:] for table in tables(vm)] == [
        [("4", unnamed), ("5", "4")],
        [("3", unnamed), ("4", "4")],
    ]
    return unnamed


def test_the_seeds_two_disk_story_ends_well(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    unnamed = seed_story(vm)
    with under_care(vm, bare(vm)), vm.qmp() as client:
        # Shown for what they are: on which devices, under which ids, and what QEMU would do with them.
        found = foreign(vm)
        assert set(found) == {"x", "y", "z", unnamed, "4"}
        assert [device["qemu_ids"] for device in found[unnamed]["devices"]] == [["4"], ["3"]]
        assert [device["qemu_ids"] for device in found["4"]["devices"]] == [["5"], ["4"]]
        assert (found[unnamed]["consistent"], found[unnamed]["problems"]) == (True, [])
        assert found["4"]["consistent"] is False
        assert any(unnamed in problem and "id" in problem for problem in found["4"]["problems"])
        assert [device["present"] for device in found["z"]["devices"]] == [True, False]
        text = vm.cli("list", vm.name, "--foreign").stdout
        assert "id 5 on virtio0" in " ".join(text.split())

        # Loading the mixed one is impossible.
        assert ("tag-is-id", "virtio0") in codes(refused_running(vm, client, "adopt", vm.name, "4", "--as", "mixed"))
        for words in (("load", vm.name, "4"), ("load", vm.name, "--id", "4")):
            assert vm.cli(*words, check=False).returncode in (2, 3)
        for line in ("loadvm 4", "loadvm tag=4", "loadvm id=4"):
            assert client.hmp(line).startswith("Error: ")
        assert contents(vm, client) == [3, 3]
        assert run_state(client) == "running"

        # The whole one is as good as any.
        adopted = vm.cli_json("adopt", vm.name, unnamed, "--as", "latest")
        assert (adopted["tag"], adopted["memory"], adopted["parent_name"]) == (unnamed, "full", "")
        vm.cli("load", "--discard", vm.name, "latest")
        assert contents(vm, client) == [1, 1]
        assert current(vm) == "latest"
    assert ("tag-is-id", "virtio0") in codes(refused(vm, "adopt", vm.name, "4", "--as", "mixed"))


def refused_running(vm: TestVM, client: QMPClient, *command: str) -> dict[str, Any]:
    """Run a command that must change nothing on a VM that runs, and return its error."""
    contents(vm, client)
    before = image_bytes(vm), names(vm, "--foreign"), vm.cli_json("log", vm.name)
    done = vm.cli(command[0], "--json", *command[1:], check=False)
    assert done.returncode == 4, done
    assert (image_bytes(vm), names(vm, "--foreign"), vm.cli_json("log", vm.name)) == before
    return dict(json.loads(done.stdout)["error"])


def test_what_savevm_took_is_adopted_and_then_as_good_as_any(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    saved(vm, "before", "after")
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "ours"})
        ours = client.execute("query-current-snapshot")
        client.execute("snapshot-adopt", {"tag": "before", "name": "theirs", "description": "by savevm"})
        event = client.wait_event("SNAPSHOT_ADOPTED")
        assert client.execute("query-current-snapshot") == ours
        theirs = client.execute("query-snapshot", {"name": "theirs"})
        assert theirs["id"] == event["data"]["id"]
        assert (theirs["tag"], theirs["description"], theirs["problems"]) == ("before", "by savevm", [])
        assert theirs["machine"]["machine"].startswith("pc-i440fx-")
        assert theirs["machine"]["ram_size"] == 64 << 20
        assert [found["name"] for found in client.execute("query-snapshots", {"foreign": True}) if not found["id"]] == [
            "after"
        ]
        client.execute("snapshot-load", {"name": "theirs", "keep": False})
        assert contents(vm, client) == [1, 1]
        client.execute("snapshot-create", {"name": "child"})
        assert client.execute("query-snapshot", {"name": "child"})["parent_name"] == "theirs"
        client.execute("snapshot-rename", {"name": "theirs", "new-name": "renamed"})
        vm.cli("check", vm.name)
        client.execute("snapshot-delete", {"name": "renamed"})
        assert [len(found) for found in entries(client).values()] == [3, 3]
        assert client.execute("query-snapshot", {"name": "child"})["parent_name"] == ""
    assert [[tag for _, tag in table if "@" not in tag] for table in tables(vm)] == [["after"], ["after"]]


def test_a_stopped_vm_adopts_too(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    saved(vm, "s", "t")
    stopped_vm(vm)
    before = image_bytes(vm)
    adopted = vm.cli_json("adopt", vm.name, "s", "--as", "theirs")
    assert image_bytes(vm) == before
    assert (adopted["memory"], adopted["consistent"], adopted["current"]) == ("full", True, False)
    vm.cli("load", "--discard", vm.name, "theirs")
    assert contents(vm) == [1, 1]
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 5)
        client.execute("snapshot-load", {"name": "theirs", "keep": False})
        assert contents(vm, client) == [1, 1]
    vm.cli("delete", vm.name, "theirs")
    assert [[tag for _, tag in table] for table in tables(vm)] == [["t"], ["t"]]


def taken_in_one_second(vm: TestVM, tag: str) -> bool:
    """Take a snapshot of each disk by qemu-img; say whether that took less than a second, and else undo it."""
    for disk in vm.disks:
        vm.tool("qemu-img", "snapshot", "-c", tag, str(disk))
    dates = [entry.date_ns for disk in vm.disks for entry in list_snapshots(disk) if entry.tag == tag]
    if max(dates) - min(dates) < ONE_MOMENT_NS:
        return True
    for disk in vm.disks:
        vm.tool("qemu-img", "snapshot", "-d", tag, str(disk))
    return False


def test_disks_only_of_one_moment_are_adopted_as_such(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    set_disks(vm, 1)
    wait_until(lambda: taken_in_one_second(vm, "cold"), "two snapshots within a second")
    set_disks(vm, 2)
    assert vm.cli_json("adopt", vm.name, "cold", "--as", "theirs")["memory"] == "none"
    vm.cli("load", "--discard", vm.name, "theirs")
    assert contents(vm) == [1, 1]
    vm.cli("delete", vm.name, "theirs")
    assert tables(vm) == [[], []]


def test_what_is_no_one_moment_is_refused_with_the_reason(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    vm.tool("qemu-img", "snapshot", "-c", "lonely", str(vm.disks[0]))
    with plain_qemu(vm, bare(vm)) as plain:
        nodes = sorted(entries(plain.qmp))
        for pattern, name in enumerate(nodes, 1):
            write(plain.qmp, pattern)
            assert run_job(plain.qmp, "snapshot-save", tag="halves", vmstate=name, devices=[name]) == ""
        assert run_job(plain.qmp, "snapshot-save", tag="twice", vmstate=nodes[0], devices=nodes[:1]) == ""
        assert run_job(plain.qmp, "snapshot-save", tag="twice", vmstate=nodes[0], devices=nodes) == ""
    assert codes(refused(vm, "adopt", vm.name, "lonely", "--as", "s")) == [("tag-missing", "virtio1")]
    assert set(codes(refused(vm, "adopt", vm.name, "halves", "--as", "s"))) == {
        ("vm-clock", None),
        ("vm-state-twice", None),
    }
    assert ("tag-twice", "virtio0") in codes(refused(vm, "adopt", vm.name, "twice", "--as", "s"))
    assert not any(found["consistent"] for found in foreign(vm).values())
    assert refused(vm, "adopt", vm.name, "nowhere", "--as", "s", code=3)["code"] == "no-such-snapshot"
    assert refused(vm, "adopt", vm.name, "lonely", "--as", "1", code=2)["code"] == "bad-name"


def test_a_number_that_is_no_ones_id_is_adopted_and_never_loaded_once_it_is(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    saved(vm, "3", "t")
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-adopt", {"tag": "3", "name": "three"})
        client.execute("snapshot-load", {"name": "three", "keep": False})
        assert contents(vm, client) == [1, 1]
        write(client, 7)
        client.execute("snapshot-create", {"name": "new"})  # QEMU gives it the id 3
        assert [found[-1][0] for found in entries(client).values()] == ["3", "3"]
        assert client.execute("query-snapshot", {"name": "three"})["consistent"] is False
        error = refused_running(vm, client, "load", vm.name, "three")
        assert codes(error) == [("tag-is-id", "virtio0"), ("tag-is-id", "virtio1")]
        # A delete goes by the tag alone.
        client.execute("snapshot-delete", {"name": "three"})
        client.execute("snapshot-load", {"name": "new", "keep": False})
        assert contents(vm, client) == [7, 7]
    assert [[tag.partition("@")[0] for _, tag in table] for table in tables(vm)] == [["t", "new"], ["t", "new"]]


def test_what_others_put_in_the_place_of_an_adopted_one_is_neither_loaded_nor_deleted(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    saved(vm, "s")
    stopped_vm(vm)
    vm.cli("adopt", vm.name, "s", "--as", "theirs")
    with plain_qemu(vm, bare(vm)) as plain:
        write(plain.qmp, 9)
        assert plain.qmp.hmp("savevm s") == ""
    assert vm.cli_json("show", vm.name, "theirs")["consistent"] is False
    assert {code for code, _ in codes(refused(vm, "load", "--discard", vm.name, "theirs"))} >= {"tag-replaced"}
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert ("vm-clock", None) in codes(refused_running(vm, client, "load", vm.name, "theirs"))
        client.execute("snapshot-delete", {"name": "theirs"})
        assert [[tag for _, tag in found] for found in entries(client).values()] == [["s"], ["s"]]
    vm.cli("adopt", vm.name, "s", "--as", "again")
    vm.cli("load", "--discard", vm.name, "again")
    assert contents(vm) == [9, 9]


def test_adopting_twice_or_under_a_taken_name_is_refused(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    saved(vm, "s", "t")
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-adopt", {"tag": "s", "name": "theirs"})
        for arguments in ({"tag": "s", "name": "again"}, {"tag": "t", "name": "theirs"}):
            with pytest.raises(QMPError, match="already"):
                client.execute("snapshot-adopt", arguments)
        assert [found["name"] for found in client.execute("query-snapshots")] == ["theirs"]


@pytest.mark.qemu("7.2")
@pytest.mark.parametrize("point", ["begun", "noted", "added", "done"])
def test_a_killed_adoption_is_finished_by_the_next_command(vm_factory: VMFactory, point: str) -> None:
    vm = vm_factory()
    saved(vm, "s")
    stopped_vm(vm)
    vm.env["SNAPTREE_TRACE"] = f"adopt.{point}=kill"
    assert vm.cli("adopt", vm.name, "s", "--as", "theirs", check=False).returncode < 0
    del vm.env["SNAPTREE_TRACE"]
    vm.cli("create", vm.name, "ours")
    assert names(vm, "--foreign") == ["theirs", "ours"]
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-load", {"name": "theirs", "keep": False})
        assert contents(vm, client) == [1, 1]
