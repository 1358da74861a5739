"""``status`` of a VM that doesn't run: whether ``create`` would take a snapshot of its disks now, and why not."""

from __future__ import annotations

import signal

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.offline.stopped import codes, stopped_vm
from tests.functional.traps.safety import bare, plain_qemu


def status_codes(vm: TestVM) -> list[tuple[str, str | None]]:
    return codes(vm.cli_json("status", vm.name))


@pytest.fixture
def vm(vm_factory: VMFactory) -> TestVM:
    return stopped_vm(vm_factory())


@pytest.mark.qemu("10")
def test_a_stopped_vm_is_ready_and_a_create_then_works(vm: TestVM) -> None:
    answer = vm.cli_json("status", vm.name)
    assert (answer["state"], answer["ready"], answer["reasons"], answer["advice"]) == ("stopped", True, [], [])
    assert (answer["memory"], answer["busy"]) == ("none", None)
    assert "dev does not run; its disks can be snapshotted now." in vm.cli("status", vm.name).stdout
    vm.cli("create", vm.name, "s")
    assert vm.cli_json("status", vm.name)["current"]["name"] == "s"


@pytest.mark.qemu("10")
def test_every_reason_is_named_that_a_create_is_refused_for(vm: TestVM) -> None:
    a, b = vm.disks
    whole = b.read_bytes()
    b.unlink()
    assert status_codes(vm) == [("image-unreadable", "virtio1")]
    said = vm.cli("status", vm.name).stdout
    assert "dev does not run; its disks cannot be snapshotted now, for 1 reason:" in said
    assert str(b) in said
    b.write_bytes(bytes(1 << 20))
    assert status_codes(vm) == [("not-qcow2", "virtio1")]
    refused = vm.cli_json("create", vm.name, "s", check=False)["error"]
    assert codes(refused) == status_codes(vm)
    b.write_bytes(whole)
    assert status_codes(vm) == []

    with plain_qemu(vm, bare(vm)) as plain:
        assert status_codes(vm) == [("image-in-use", "virtio0"), ("image-in-use", "virtio1")]
        for command in (("status", vm.name), ("create", vm.name, "s")):
            done = vm.cli(*command, check=False)
            assert f"in use by qemu-system-x86 (pid {plain.pid})" in done.stdout + done.stderr
    assert status_codes(vm) == []

    path = vm.env["PATH"]
    vm.env["PATH"] = str(vm.root)
    assert status_codes(vm) == [("no-qemu-img", None)]
    vm.env["PATH"] = path
    assert a.exists()


@pytest.mark.qemu("10")
def test_what_was_cut_off_is_told_and_stands_against_nothing(vm: TestVM) -> None:
    vm.env["SNAPTREE_TRACE"] = "offline-create.one=kill"
    assert vm.cli("create", vm.name, "s", check=False).returncode == -signal.SIGKILL
    del vm.env["SNAPTREE_TRACE"]
    answer = vm.cli_json("status", vm.name)
    assert answer["ready"]
    assert [found["code"] for found in answer["advice"]] == ["cut-off"]
    vm.cli("create", vm.name, "t")
    assert vm.cli_json("status", vm.name)["advice"] == []


@pytest.mark.qemu("10")
def test_a_vm_that_has_never_run_has_no_disks_to_snapshot(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    stopped_vm(vm)
    (vm.home / "vms" / vm.name / "command.json").unlink()
    assert status_codes(vm) == [("disks-unknown", None)]
