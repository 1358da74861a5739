"""Create, load, delete and list on a VM that doesn't run: its disks, all or none."""

from __future__ import annotations

import json

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPError
from tests.framework.waiting import wait_until
from tests.functional.main.patterns import contents, write
from tests.functional.offline.stopped import (
    assert_images_whole,
    codes,
    current,
    names,
    refused,
    set_disks,
    stopped_vm,
    tables,
    taken,
)
from tests.functional.traps.safety import bare, node, plain_qemu, under_care

from snaptree.model.tags import parse_tag


def test_a_snapshot_of_a_stopped_vm_holds_all_its_disks_and_says_that_it_holds_no_ram(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    set_disks(vm, 1)
    done = vm.cli("create", vm.name, "a", "-m", "first")
    assert "disks only" in done.stdout
    (a,) = vm.cli_json("list", vm.name)
    assert (a["memory"], a["vm_state_size"], a["vm_clock"], a["description"]) == ("none", 0, 0, "first")
    assert a["consistent"]
    assert a["current"]
    assert [device["present"] for device in a["devices"]] == [True, True]
    assert vm.cli_json("show", vm.name, "a")["problems"] == []
    for table in tables(vm):
        (tag,) = (parse_tag(tag) for _, tag in table)
        assert tag is not None
        assert (tag.name, tag.id) == ("a", a["id"])
    assert_images_whole(vm)


def test_disks_go_back_and_forth_and_the_lineage_with_them(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    a = taken(vm, "a", 1)
    b = taken(vm, "b", 2)
    assert (b["parent_id"], b["memory"], b["pause_ms"]) == (a["id"], "none", 0)
    set_disks(vm, 3)
    done = vm.cli_json("load", "--discard", vm.name, "a")
    assert (done["name"], done["ram_loaded"], done["current"]) == ("a", False, True)
    assert contents(vm) == [1, 1]
    c = taken(vm, "c", 4)
    assert c["parent_id"] == a["id"]
    vm.cli("load", "--discard", vm.name, "--id", b["id"][:8])
    assert contents(vm) == [2, 2]
    vm.cli("load", "--discard", vm.name, "c")
    assert contents(vm) == [4, 4]
    assert current(vm) == "c"
    assert [entry["action"] for entry in vm.cli_json("log", vm.name)] == [
        *("create", "create", "load", "create", "load", "load")
    ]
    assert all(entry["result"] == "ok, disks only" for entry in vm.cli_json("log", vm.name))
    assert_images_whole(vm)


def test_a_delete_takes_a_snapshot_off_all_images_and_leaves_the_others(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    for pattern, name in enumerate("abc", 1):
        taken(vm, name, pattern)
    assert [gone["name"] for gone in vm.cli_json("delete", vm.name, "b")["deleted"]] == ["b"]
    assert names(vm) == ["a", "c"]
    a, c = vm.cli_json("list", vm.name)
    assert c["parent_id"] == a["id"]
    assert [len(table) for table in tables(vm)] == [2, 2]
    assert {gone["name"] for gone in vm.cli_json("delete", vm.name, "a", "--children")["deleted"]} == {"a", "c"}
    assert (names(vm), tables(vm)) == ([], [[], []])
    assert contents(vm) == [3, 3]
    assert_images_whole(vm)


def test_a_snapshot_with_ram_gives_a_stopped_vm_its_disks_and_a_running_one_all(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "warm"})
        write(client, 2)
    done = vm.cli("load", "--discard", vm.name, "warm")
    assert "RAM is not loaded" in done.stdout
    assert f"snaptree load {vm.name} warm" in done.stdout
    assert contents(vm) == [1, 1]
    assert current(vm) == "warm"
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 3)
        assert vm.cli_json("load", "--discard", vm.name, "warm")["ram_loaded"] is True
        assert contents(vm, client) == [1, 1]


def test_a_snapshot_without_ram_is_not_loaded_while_the_vm_runs(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "cold", 1)
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 2)
        done = vm.cli("load", "--json", vm.name, "cold", check=False)
        assert done.returncode == 4
        error = json.loads(done.stdout)["error"]
        assert [reason["code"] for reason in error["reasons"]] == ["disks-only"]
        assert "snaptree stop" in error["remedy"]
        assert "snaptree load" in error["remedy"]
        assert contents(vm, client) == [2, 2]
        client.execute("snapshot-create", {"name": "warm"})
        (cold, warm) = client.execute("query-snapshots")
        assert (warm["parent_id"], cold["consistent"]) == (cold["id"], True)
    vm.cli("load", "--discard", vm.name, "cold")
    assert contents(vm) == [1, 1]
    with under_care(vm, bare(vm)):
        vm.cli("delete", vm.name, "cold")
    assert [[parse_tag(tag).name for _, tag in table] for table in tables(vm)] == [["warm"]] * 2  # type: ignore[union-attr]


def test_a_vm_starts_from_the_disks_that_were_loaded(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    vm.cli("load", "--discard", vm.name, "a")
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert contents(vm, client) == [1, 1]
        assert client.execute("query-current-snapshot")["name"] == "a"


def test_nothing_is_changed_while_one_image_is_in_use(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    for read_only in ("off", "on"):
        option, second = node("disk-b", vm.disks[1])
        with plain_qemu(vm, bare(vm, option, f"{second},read-only={read_only}", disks="none")):
            for command in (("create", vm.name, "b"), ("load", vm.name, "a"), ("delete", vm.name, "a")):
                assert "disk-b" not in refused(vm, *command)["message"]
                assert str(vm.disks[1]) in refused(vm, *command)["message"]
            vm.cli("rename", vm.name, "a", "x")
            vm.cli("rename", vm.name, "x", "a")
    vm.cli("load", "--discard", vm.name, "a")
    assert contents(vm) == [1, 1]


def test_a_qemu_that_nobody_supervises_is_not_worked_around(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        vm.cli("attach", "--detach", vm.name, "--qmp", f"unix:{plain.attach_socket}")
        with vm.qmp() as client:
            client.execute("snapshot-create", {"name": "a"})
            pid = client.execute("query-vm")["supervisor_pid"]
        vm.tool("kill", "-KILL", str(pid))
        wait_until(lambda: vm.cli_json("vms")[0]["state"] == "unsupervised", "the supervisor's end")
        for command in (("create", vm.name, "b"), ("load", vm.name, "a"), ("delete", vm.name, "a")):
            assert "snaptree attach" in refused(vm, *command)["remedy"]


@pytest.mark.parametrize("command", ["create", "load"])
def test_an_image_that_cannot_be_changed_is_named_with_its_remedy_before_any_is_touched(
    vm_factory: VMFactory, command: str
) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    words = (command, vm.name, "b" if command == "create" else "a")
    good = vm.disks[1].read_bytes()
    if command == "load":
        vm.tool("qemu-img", "bitmap", "--add", str(vm.disks[1]), "dirty")
        assert codes(refused(vm, *words)) == [("bitmap", "virtio1")]
        vm.tool("qemu-img", "bitmap", "--remove", str(vm.disks[1]), "dirty")
        vm.tool("qemu-img", "snapshot", "-d", tables(vm)[1][0][1], str(vm.disks[1]))
        assert codes(refused(vm, *words)) == [("tag-missing", "virtio1")]
    vm.disks[1].write_bytes(b"raw".ljust(len(good), b"\0"))
    before = vm.disks[0].read_bytes()
    done = vm.cli(words[0], "--json", *words[1:], check=False)
    assert done.returncode == 4
    assert codes(json.loads(done.stdout)["error"])[0] == ("not-qcow2", "virtio1")
    assert vm.disks[0].read_bytes() == before
    vm.disks[1].write_bytes(good)
    vm.cli(*words)


def test_a_disk_that_was_resized_gets_its_old_size_only_with_consent(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    vm.tool("qemu-img", "resize", "-q", str(vm.disks[1]), "+64M")
    assert codes(refused(vm, "load", "--discard", vm.name, "a")) == [("resized", "virtio1")]
    vm.cli("load", "--discard", vm.name, "a", "--allow-resize")
    size = json.loads(vm.tool("qemu-img", "info", "--output=json", str(vm.disks[1])).stdout)["virtual-size"]
    assert size == 64 << 20


def test_names_and_unknown_snapshots_are_refused_as_on_a_running_vm(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    assert refused(vm, "create", vm.name, "a")["code"] == "name-taken"
    assert refused(vm, "create", vm.name, "1", code=2)["code"] == "bad-name"
    assert refused(vm, "load", "--discard", vm.name, "b", code=3)["code"] == "no-such-snapshot"
    assert refused(vm, "delete", vm.name, "1", code=3)["code"] == "no-such-snapshot"


def test_a_path_with_commas_and_colons_is_still_the_path(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.disks = [disk.rename(disk.with_name(f"a,b:{disk.name}")) for disk in vm.disks]
    quoted = [str(disk).replace(",", ",,") for disk in vm.disks]
    drives = [word for path in quoted for word in ("-drive", f"file.filename={path},file.driver=file,if=virtio")]
    with under_care(vm, bare(vm, *drives, disks="none")):
        pass
    taken(vm, "a", 1)
    set_disks(vm, 2)
    vm.cli("load", "--discard", vm.name, "a")
    assert contents(vm) == [1, 1]


def test_forget_takes_the_snapshots_off_the_images_it_holds(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    vm.tool("qemu-img", "snapshot", "-c", "theirs", str(vm.disks[0]))
    vm.cli("forget", vm.name, "--snapshots")
    assert [[tag for _, tag in table] for table in tables(vm)] == [["theirs"], []]


def test_qmp_clients_are_told_the_same(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "cold", 1)
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with pytest.raises(QMPError, match="disks only"):
            client.execute("snapshot-load", {"name": "cold", "keep": False})
        (cold,) = client.execute("query-snapshots")
        assert cold["memory"] == "none"
