"""Overwriting: QEMU does it by name without a word, ours not at all."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPError
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare, entries, image_bytes, plain_qemu, run_state, under_care


def test_qemu_alone_overwrites_by_name_without_a_word(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with plain_qemu(vm, bare(vm)) as plain:
        for pattern, tag in enumerate(["test1", "test2", "test1"], 1):
            write(plain.qmp, pattern, ["virtio0"])
            assert plain.qmp.hmp(f"savevm {tag}") == ""
        assert list(entries(plain.qmp).values()) == [[("2", "test2"), ("3", "test1")]]
        write(plain.qmp, 4, ["virtio0"])
        assert plain.qmp.hmp("loadvm test1") == ""
        assert contents(vm, plain.qmp) == [3]


def test_qemu_alone_no_longer_overwrites_by_number_but_makes_a_tag_that_loads_another_one(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory(disks=1)
    with plain_qemu(vm, bare(vm)) as plain:
        for pattern, tag in enumerate(["first", "second", "2"], 1):
            write(plain.qmp, pattern, ["virtio0"])
            assert plain.qmp.hmp(f"savevm {tag}") == ""
        assert list(entries(plain.qmp).values()) == [[("1", "first"), ("2", "second"), ("3", "2")]]
        assert plain.qmp.hmp("loadvm 2") == ""
        assert contents(vm, plain.qmp) == [2]


def test_a_name_that_is_taken_is_refused_and_the_older_snapshot_stays(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for pattern, tag in enumerate(["test1", "test2"], 1):
            write(client, pattern)
            assert client.hmp(f"savevm {tag}") == ""
        write(client, 3)
        contents(vm, client)  # writes back what QEMU holds
        before = image_bytes(vm), client.execute("query-snapshots"), client.execute("query-snapshot-history")

        said = client.hmp("savevm test1")
        assert said.startswith('Error: There is a snapshot "test1" already.')
        assert "Choose another name" in said
        with pytest.raises(QMPError, match='There is a snapshot "test1" already'):
            client.execute("snapshot-create", {"name": "test1"})
        assert vm.cli("create", vm.name, "test1", check=False).returncode == 4

        assert (image_bytes(vm), client.execute("query-snapshots"), client.execute("query-snapshot-history")) == before
        assert run_state(client) == "running"
        assert client.hmp("loadvm tag=test1") == ""
        assert contents(vm, client) == [1, 1]


def test_a_name_is_free_again_once_its_snapshot_is_deleted_or_renamed(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        ids = []
        for pattern in (1, 2, 3):
            write(client, pattern)
            client.execute("snapshot-create", {"name": "test1"})
            ids.append(client.execute("query-snapshot", {"name": "test1"})["id"])
            if pattern == 1:
                client.execute("snapshot-rename", {"name": "test1", "new-name": "older"})
            if pattern == 2:
                client.execute("snapshot-delete", {"name": "test1"})
        assert len(set(ids)) == 3
        client.execute("snapshot-load", {"name": "older", "keep": False})
        assert contents(vm, client) == [1, 1]
        client.execute("snapshot-load", {"name": "test1", "keep": False})
        assert contents(vm, client) == [3, 3]
