"""Tags, and snapshots that others took, deleted or loaded behind our back."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.functional.traps.safety import (
    assert_can,
    attached,
    bare,
    entries,
    plain_qemu,
    refusal,
    refused,
    run_job,
    run_state,
    under_care,
)

BOTH = ["disk-a", "disk-b"]
WICKED = ["\x1b[31mred\x07", "two\nlines", "\u202eback", "\x9b2J", 'q"uo\\te', "1", "", "x" * 255]
"""Tags that QEMU takes: for the terminal, for the reader, and such as look like ids."""


def printed(text: str) -> bool:
    """Say whether a text has no character that a terminal would act upon."""
    return all(character.isprintable() or character in "\r\n" for character in text)


def test_qemu_alone_cuts_a_long_tag_takes_an_empty_one_and_deletes_what_is_not_there(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with plain_qemu(vm, bare(vm, disks="blockdev")) as plain:
        where = {"vmstate": "disk-a", "devices": ["disk-a"]}
        assert run_job(plain.qmp, "snapshot-save", tag="x" * 300, **where) == ""
        assert run_job(plain.qmp, "snapshot-save", tag="", **where) == ""
        assert run_job(plain.qmp, "snapshot-delete", tag="missing", devices=["disk-a"]) == ""
        assert entries(plain.qmp) == {"disk-a": [("1", "x" * 255), ("2", "")]}


def test_a_name_fits_into_its_tag_or_is_refused_and_a_missing_one_is_an_error(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with under_care(vm, bare(vm, disks="blockdev")) as own, vm.qmp() as client:
        found = assert_can(vm, "x" * 128)
        assert entries(own) == {"disk-a": [("1", found["tag"])]}
        assert found["tag"].startswith("x" * 128 + "@" + found["id"])
        for name in ("", "x" * 129, "1", found["id"], "true", "a b", "\x1b[31m"):
            assert refusal(client, "snapshot-create", {"name": name})["code"] == "bad-name", name
        for command in ("delete", "load"):
            missing = vm.cli(command, vm.name, "\x1b[31mmissing", check=False)
            assert missing.returncode == 3
            assert printed(missing.stderr)
        assert len(entries(own)["disk-a"]) == 1


def test_a_foreign_snapshot_is_shown_where_it_is_asked_for_and_never_raw(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    for disk in vm.disks:
        vm.tool("qemu-img", "snapshot", "-c", "bad\udcff\udcfename", str(disk))
    with attached(vm, bare(vm, disks="blockdev")) as monitor, vm.qmp() as client:
        for tag in WICKED:
            assert run_job(monitor, "snapshot-save", tag=tag, vmstate="disk-a", devices=BOTH) == ""
        assert run_job(monitor, "snapshot-save", tag="part", vmstate="disk-a", devices=["disk-a"]) == ""
        assert_can(vm, "ours")

        assert [found["name"] for found in vm.cli_json("list", vm.name)] == ["ours"]
        assert [found["name"] for found in vm.cli_json("tree", vm.name)] == ["ours"]
        listed = vm.cli_json("list", vm.name, "--foreign")
        foreign = {found["name"]: found for found in listed if found.get("foreign")}
        assert len(foreign) == len(WICKED) + 2
        assert set(WICKED) < set(foreign)
        assert all(found["id"] is None for found in foreign.values())
        assert foreign["\x1b[31mred\x07"]["consistent"]
        assert not foreign["part"]["consistent"]
        for text in (
            vm.cli("list", vm.name, "--foreign").stdout,
            vm.cli("list", vm.name, "--foreign", "--json").stdout,
            client.hmp("info snapshots"),
        ):
            assert "ours" in text
            assert "part" in text
            assert printed(text), text
        # They are nobody's to load or delete here.
        assert vm.cli("load", "--discard", vm.name, "part", check=False).returncode == 3
        assert vm.cli("delete", vm.name, "part", check=False).returncode == 3
        assert len(entries(monitor)["disk-a"]) == len(WICKED) + 3
    stopped = vm.cli_json("list", vm.name, "--foreign")
    assert {found["name"] for found in stopped} == {"ours", *foreign}
    assert printed(vm.cli("list", vm.name, "--foreign").stdout)


def test_a_foreign_snapshot_of_our_name_or_in_our_form_is_not_ours_and_ours_is_unharmed(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, vm.qemu_args()) as own, vm.qmp() as client:
        vm.wait_states(3)
        assert own.hmp("savevm same") == ""
        client.execute("snapshot-create", {"name": "same"})
        tag = client.execute("query-snapshot", {"name": "same"})["tag"]
        forged = f"same@{'0' * 8}-0000-4000-8000-{'0' * 12}^{tag.rpartition('^')[2]}"
        assert own.hmp(f"savevm {forged}") == ""
        listed = vm.cli_json("list", vm.name, "--foreign")
        assert [(found["name"], found.get("foreign", False)) for found in listed] == [
            ("same", False),
            ("same", True),
            (forged, True),
        ]
        vm.wait_state_after(vm.states()[-1].ram + 2)
        since = vm.serial_end()
        vm.cli("load", "--discard", vm.name, "same")
        vm.wait_states(2, since)
        vm.assert_guest_ok()
        vm.cli("delete", vm.name, "same")
        assert list(entries(own).values()) == [[("1", "same"), ("3", forged)]] * 2
        assert own.hmp("loadvm same") == ""


@pytest.mark.parametrize("how", ["delvm", "one-disk", "qemu-img"])
def test_a_snapshot_that_somebody_deleted_is_not_whole_and_can_only_be_deleted(vm_factory: VMFactory, how: str) -> None:
    vm = vm_factory()
    argv = bare(vm, disks="blockdev")
    with under_care(vm, argv) as own:
        kept, lost = assert_can(vm, "kept"), assert_can(vm, "lost")
        if how == "delvm":
            own.execute("human-monitor-command", {"command-line": f"delvm {lost['tag']}"})
        elif how == "one-disk":
            assert run_job(own, "snapshot-delete", tag=lost["tag"], devices=["disk-b"]) == ""
    if how == "qemu-img":
        vm.tool("qemu-img", "snapshot", "-d", lost["tag"], str(vm.disks[1]))
    gone = ["virtio-a", "virtio-b"] if how == "delvm" else ["virtio-b"]
    for supervised in (False, True):
        if supervised:
            vm.cli("run", "--detach", vm.name, "--", *argv)
        listed = {found["name"]: found for found in vm.cli_json("list", vm.name)}
        assert (listed["kept"]["consistent"], listed["lost"]["consistent"]) == (True, False)
        assert [device["device"] for device in listed["lost"]["devices"] if not device["present"]] == gone
    assert refused(vm, "load", "--discard", vm.name, "lost") == [("tag-missing", device) for device in gone]
    vm.cli("load", "--discard", vm.name, "kept")
    vm.cli("delete", vm.name, "lost")
    with vm.qmp() as client:
        assert {tag for found in entries(client).values() for _, tag in found} == {kept["tag"]}


def test_a_tag_that_is_there_twice_or_of_another_moment_is_refused_and_deleted_whole(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    loose = vm.new_image("loose")
    with attached(vm, bare(vm, disks="blockdev")) as monitor, vm.qmp() as client:
        tags = {name: assert_can(vm, name)["tag"] for name in ("kept", "twice", "torn")}
        # QEMU refuses a tag only where it is on all the disks already.
        add = {"driver": "qcow2", "node-name": "loose", "file": {"driver": "file", "filename": str(loose)}}
        monitor.execute("blockdev-add", add)
        where = {"vmstate": "loose", "devices": ["disk-b", "loose"]}
        assert run_job(monitor, "snapshot-save", tag=tags["twice"], **where) == ""
        monitor.execute("blockdev-del", {"node-name": "loose"})
        assert run_job(monitor, "snapshot-delete", tag=tags["torn"], devices=["disk-b"]) == ""
        monitor.execute("blockdev-snapshot-internal-sync", {"device": "disk-b", "name": tags["torn"]})

        assert refused(vm, "load", "--discard", vm.name, "twice") == [("tag-twice", "virtio-b"), ("vm-clock", None)]
        assert refused(vm, "load", "--discard", vm.name, "torn") == [("vm-clock", None)]
        assert [found["consistent"] for found in client.execute("query-snapshots")] == [True, False, False]
        for name in ("twice", "torn"):
            vm.cli("delete", vm.name, name)
        assert {tag for found in entries(client).values() for _, tag in found} == {tags["kept"]}
        vm.cli("load", "--discard", vm.name, "kept")


def test_no_parent_is_guessed_after_another_monitor_loaded_something(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)) as own, vm.qmp() as client:
        assert own.hmp("savevm theirs") == ""
        assert_can(vm, "first")
        client.execute("stop")
        assert own.hmp("loadvm theirs") == ""
        client.execute("snapshot-create", {"name": "second"})
        second = client.execute("query-snapshot", {"name": "second"})
        assert (second["parent_name"], second["current"]) == ("", True)
        assert "another monitor of this QEMU loaded another state" in (vm.home / "vms/dev/supervisor.log").read_text()
        # What is known again goes on as ever.
        client.execute("snapshot-create", {"name": "third"})
        assert client.execute("query-snapshot", {"name": "third"})["parent_name"] == "second"
        assert [root["name"] for root in vm.cli_json("tree", vm.name)] == ["first", "second"]
        assert run_state(own) == "paused"
