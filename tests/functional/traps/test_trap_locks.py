"""Images that a QEMU has open: what can be seen and changed of them from outside.  Not for: other kinds of refusals."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.functional.traps.safety import assert_can, bare, image_bytes, node, plain_qemu, under_care


def test_qemu_img_cannot_change_the_images_of_a_running_vm_and_ours_lists_them(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)):
        assert_can(vm, "s")
        for change in (("-c", "theirs"), ("-d", "s"), ("-l",)):
            done = vm.tool("qemu-img", "snapshot", *change, str(vm.disks[0]), check=False)
            assert done.returncode != 0
            assert "lock" in done.stderr
        running = vm.cli_json("list", vm.name, "--foreign")
        assert [found["name"] for found in running] == ["s"]
    assert vm.cli_json("list", vm.name, "--foreign") == running


def test_nothing_is_deleted_from_a_stopped_vm_while_one_of_its_images_is_in_use(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, disks="blockdev")):
        assert_can(vm, "s")
        running = vm.cli("forget", "--snapshots", vm.name, check=False)
        assert running.returncode == 4
    for read_only in ("off", "on"):
        option, second = node("disk-b", vm.disks[1])
        with plain_qemu(vm, bare(vm, option, f"{second},read-only={read_only}", disks="none")):
            before = image_bytes(vm)
            refused = vm.cli("forget", "--snapshots", vm.name, check=False)
            assert refused.returncode == 4
            assert str(vm.disks[1]) in refused.stderr
            assert image_bytes(vm) == before
        assert [found["consistent"] for found in vm.cli_json("list", vm.name)] == [True]
    vm.cli("forget", "--snapshots", vm.name)
    for disk in vm.disks:
        assert vm.tool("qemu-img", "snapshot", "-l", str(disk)).stdout == ""
    assert vm.cli_json("vms") == []
