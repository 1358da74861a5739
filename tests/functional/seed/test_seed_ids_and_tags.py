"""An id or a tag: QEMU's guess, and ours that there is nothing to guess.

Each session is typed first at QEMU's own monitor, which shows what is wrong today, and then at ours.
"""

from __future__ import annotations

import uuid

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPError
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, plain_qemu, run_job, run_state, under_care


def test_qemu_alone_loads_the_snapshot_with_the_number_2_where_another_has_the_tag_2(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with plain_qemu(vm, bare(vm)) as plain:
        write(plain.qmp, 1, ["virtio0"])
        assert plain.qmp.hmp("savevm 2") == ""
        write(plain.qmp, 2, ["virtio0"])
        assert plain.qmp.hmp("savevm") == ""
        ((_, first), (number, second)) = next(iter(entries(plain.qmp).values()))
        assert (first, number) == ("2", "2")
        assert second != "2"

        write(plain.qmp, 3, ["virtio0"])
        assert plain.qmp.hmp("loadvm 2") == ""
        assert contents(vm, plain.qmp) == [2]


def test_qemu_alone_loads_the_number_1_for_the_tag_1_and_so_two_disks_of_two_moments(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    nodes = ["disk-a", "disk-b"]
    drives = [
        word
        for node, disk in zip(nodes, vm.disks, strict=True)
        for word in ("-drive", f"if=virtio,format=qcow2,file={disk},node-name={node}")
    ]
    with plain_qemu(vm, bare(vm, *drives, disks="none")) as plain:
        write(plain.qmp, 1)
        assert run_job(plain.qmp, "snapshot-save", tag="x", vmstate="disk-a", devices=["disk-a"]) == ""
        write(plain.qmp, 2)
        assert run_job(plain.qmp, "snapshot-save", tag="1", vmstate="disk-a", devices=nodes) == ""
        assert entries(plain.qmp) == {"disk-a": [("1", "x"), ("2", "1")], "disk-b": [("1", "1")]}

        write(plain.qmp, 3)
        assert run_job(plain.qmp, "snapshot-load", tag="1", vmstate="disk-a", devices=nodes) == ""
        assert contents(vm, plain.qmp) == [1, 2]


def test_savevm_takes_one_new_name_and_never_an_id(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert client.hmp("savevm 2").startswith('Error: The name "2" is a number')
        assert client.hmp("savevm") == "Error: savevm takes one new name: savevm NAME\r\n"
        assert client.execute("query-snapshots", {"foreign": True}) == []
        assert client.hmp("savevm clean") == ""
        (clean,) = client.execute("query-snapshots")
        assert "has the form of an id" in client.hmp(f"savevm {clean['id']}")
        assert client.execute("query-snapshots", {"foreign": True}) == [clean]


def test_the_id_is_a_random_uuid_and_the_same_on_all_devices(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for name in ("one", "two"):
            client.execute("snapshot-create", {"name": name})
        one, two = client.execute("query-snapshots")
        assert uuid.UUID(one["id"]).version == uuid.UUID(two["id"]).version == 4
        assert one["id"] != two["id"]
        nil = "00000000-0000-0000-0000-000000000000"
        tags = [f"one@{one['id']}^{nil}", f"two@{two['id']}^{one['id']}"]
        assert [[tag for _, tag in found] for found in entries(client).values()] == [tags, tags]


def test_loadvm_wants_to_be_told_whether_a_tag_or_an_id_is_meant(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        assert client.hmp("savevm clean") == ""
        (clean,) = client.execute("query-snapshots")
        write(client, 2)

        for bare_word in ("3", "xxx", "clean"):
            said = client.hmp(f"loadvm {bare_word}")
            assert said.startswith("Error: ")
            assert f"loadvm tag={bare_word} or loadvm id=ID" in said
        assert "loadvm tag=NAME or loadvm id=ID" in client.hmp("loadvm")
        assert client.hmp("loadvm tag=1").startswith('Error: There is no snapshot "1"')
        assert client.hmp("loadvm id=1").startswith('Error: The id prefix "1" is too short.')
        assert contents(vm, client) == [2, 2]
        assert run_state(client) == "running"

        assert client.hmp("loadvm tag=clean") == ""
        assert contents(vm, client) == [1, 1]
        write(client, 2)
        assert client.hmp(f"loadvm id={clean['id'][:8]}") == ""
        assert contents(vm, client) == [1, 1]


def test_delvm_wants_to_be_told_whether_a_tag_or_an_id_is_meant(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.hmp("savevm one")
        client.hmp("savevm two")
        one, two = client.execute("query-snapshots")
        assert "delvm tag=one or delvm id=ID" in client.hmp("delvm one")
        assert client.execute("query-snapshots") == [one, two]
        assert client.hmp("delvm tag=one") == ""
        assert client.hmp(f"delvm id={two['id']}") == ""
        assert client.execute("query-snapshots") == []
        assert list(entries(client).values()) == [[], []]


def test_a_bare_word_on_the_command_line_is_always_a_name(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "s"})
        (s,) = client.execute("query-snapshots")
        for word in ("1", s["id"], s["id"][:8]):
            assert vm.cli("load", "--discard", vm.name, word, check=False).returncode == 3
            assert vm.cli("delete", vm.name, word, check=False).returncode == 3
        assert client.execute("query-snapshots") == [s]
        assert vm.cli("load", "--discard", vm.name, "--id", s["id"][:8]).stdout.startswith("loaded s (")


def test_qemus_own_forms_that_would_guess_are_refused_by_name(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, disks="blockdev")), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "s"})
        before = entries(client)
        for command in ("snapshot-load", "snapshot-save", "snapshot-delete"):
            arguments = {"job-id": "j", "tag": "1", "devices": ["disk-a", "disk-b"]}
            if command != "snapshot-delete":
                arguments["vmstate"] = "disk-a"
            with pytest.raises(QMPError, match=f"QEMU's own {command} would go around the lineage"):
                client.execute(command, arguments)
        assert entries(client) == before
        assert client.execute("query-jobs") == []
