"""A save or load that fails in QEMU: what it leaves behind, and what snaptree makes of it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPError
from tests.framework.vm import DisksBy, TestVM
from tests.functional.traps.safety import (
    MIB,
    assert_can,
    bare,
    entries,
    nothing,
    plain_qemu,
    refusal,
    run_job,
    run_state,
    trace_stop,
    under_care,
    with_meanwhile,
)

BOTH = ["disk-a", "disk-b"]


def with_full_disk_b(vm: TestVM, disks: DisksBy = "blockdev") -> list[str]:
    """Return the command line of a QEMU whose disk b can take no snapshot once ``no_room_behind`` 40 MiB.

    Its image is larger than that already, and disk a's is smaller even with a VM state.
    """
    vm.disks[1].unlink()
    vm.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", str(vm.disks[1]), "64M")
    script = vm.root / "qemu.sh"
    # A write beyond the limit is an error then, as on a full file system, and no signal.
    script.write_text('#!/bin/sh\ntrap "" XFSZ\nexec qemu-system-x86_64 "$@"\n')
    script.chmod(0o755)
    return [str(script), *bare(vm, disks=disks)[1:]]


@contextmanager
def no_room_behind(pid: int, offset: int) -> Iterator[None]:
    """Let every write of a process behind this offset of a file fail."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (offset, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_qemu_alone_deletes_the_older_good_snapshot_when_a_save_of_that_tag_fails(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, with_full_disk_b(vm)) as plain:
        assert run_job(plain.qmp, "snapshot-save", tag="s", vmstate="disk-a", devices=["disk-a"]) == ""
        assert entries(plain.qmp) == {"disk-a": [("1", "s")], "disk-b": []}
        with no_room_behind(plain.pid, 40 * MIB):
            assert "Could not create snapshot 's' on 'disk-b'" in run_job(
                plain.qmp, "snapshot-save", tag="s", vmstate="disk-a", devices=BOTH
            )
        assert entries(plain.qmp) == {"disk-a": [("2", "s")], "disk-b": []}


@pytest.mark.parametrize("room_mib", [1, 40], ids=["no-room-for-ram", "no-room-on-the-second-disk"])
def test_a_create_that_qemu_fails_leaves_nothing_behind_and_takes_nothing_with_it(
    vm_factory: VMFactory, room_mib: int
) -> None:
    vm = vm_factory()
    with under_care(vm, with_full_disk_b(vm)) as own, vm.qmp() as client:
        assert_can(vm, "good")
        before = entries(own)
        since = len(client.events)
        pid = client.execute("query-vm")["qemu_pid"]
        with no_room_behind(pid, room_mib * MIB):
            failed = vm.cli("create", vm.name, "late", check=False)
        assert failed.returncode == 1, failed
        assert "QEMU's snapshot-save failed" in failed.stderr
        assert entries(own) == before
        assert run_state(client) == "running"
        assert client.wait_event("SNAPSHOT_FAILED", since)["data"]["operation"] == "create"
        assert client.execute("query-jobs") == []
        (good,) = client.execute("query-snapshots", {"foreign": True})
        assert (good["name"], good["consistent"], good["current"]) == ("good", True, True)
        assert "failed" in client.execute("query-snapshot-history")[-1]["result"]
        late = assert_can(vm, "late")
        assert late["parent_name"] == "good"
        client.execute("snapshot-load", {"name": "good", "keep": False})


def test_a_load_that_qemu_fails_leaves_its_vm_stopped_and_ours_running(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm, disks="blockdev")) as plain:
        assert "does not exist" in run_job(plain.qmp, "snapshot-load", tag="typo", vmstate="disk-a", devices=BOTH)
        assert run_state(plain.qmp) == "restore-vm"
    with under_care(vm, with_full_disk_b(vm, "drive")) as own, vm.qmp() as client:
        assert_can(vm, "s")
        before = entries(own)

        assert run_state(client) == "running"
        since = len(client.events)
        assert vm.cli("load", "--discard", vm.name, "typo", check=False).returncode == 3
        assert run_state(client) == "running"
        assert client.events[since:] == []

        for disk in ("virtio0", "virtio1"):
            own.hmp(f'qemu-io {disk} "write -q -P 7 0 64k"')
        with no_room_behind(client.execute("query-vm")["qemu_pid"], 0):
            failed = vm.cli("load", "--discard", vm.name, "s", check=False)
        assert failed.returncode == 1, failed
        assert "No disk was changed" in failed.stderr
        assert run_state(client) == "running"
        assert client.execute("query-jobs") == []
        assert entries(own) == before
        client.execute("snapshot-load", {"name": "s", "keep": False})


def test_a_load_that_fails_half_way_leaves_the_vm_paused_until_a_load_is_whole(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    trace_stop(vm, "load.paused")
    with under_care(vm, vm.qemu_args(disks="blockdev")) as own, vm.qmp() as client:
        vm.wait_states(3)
        client.execute("snapshot-create", {"name": "s"})
        vm.wait_state_after(vm.states()[-1].ram + 2)

        bitmap = {"node": "disk-b", "name": "late"}
        with pytest.raises(QMPError, match="dirty bitmaps") as failed:
            with_meanwhile(
                client,
                "snapshot-load",
                {"name": "s", "keep": False},
                lambda: own.execute("block-dirty-bitmap-add", bitmap),
            )
        assert failed.value.reply["error"]["code"] == "load-incomplete"
        assert own.execute("query-jobs") == []
        assert run_state(own) == "paused"
        status = vm.cli_json("status", vm.name)
        assert [reason["code"] for reason in status["reasons"]] == ["load-incomplete", "bitmap"]
        assert "virtio-a is at s" in status["reasons"][0]["message"]
        assert "virtio-b is as it was before the load" in status["reasons"][0]["message"]
        assert "cannot continue" in refusal(client, "cont", {})["desc"]
        assert "cannot continue" in client.hmp("cont")
        assert run_state(own) == "paused"

        own.execute("block-dirty-bitmap-remove", bitmap)
        since = vm.serial_end()
        with_meanwhile(client, "snapshot-load", {"name": "s", "keep": False}, nothing)
        assert vm.cli_json("status", vm.name)["reasons"] == []
        assert run_state(own) == "paused"
        client.execute("cont")
        vm.wait_states(3, since)
        vm.assert_guest_ok()
