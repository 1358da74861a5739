"""A load into a VM that isn't what it was: what QEMU finds too late or never, and snaptree before it stops anything."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.traps.safety import (
    assert_can,
    attached,
    bare,
    fill,
    holds,
    plain_qemu,
    refused,
    run_job,
    run_state,
    under_care,
)

BOTH = ["disk-a", "disk-b"]
RNG = ("-device", "virtio-rng-pci,id=rng")
BALLOON = ("-device", "virtio-balloon-pci,id=balloon")

CHANGES = {
    "ram-size": "ram-size",
    "machine": "machine",
    "cpu": "cpu",
    "cpus": "cpus",
    "device-added": "devices",
    "device-removed": "devices",
}
"""What is different, and the reason's code."""

ACCEPTED = ("cpu", "device-added")
"""What QEMU loads into without a word."""


def changed(vm: TestVM, what: str) -> list[str]:
    """Return the command line of the same VM with something else."""
    match what:
        case "ram-size":
            return bare(vm, *RNG, disks="blockdev", memory_mib=96)
        case "machine":
            return bare(vm, *RNG, disks="blockdev", machine="pc-i440fx-7.1")
        case "cpu":
            return bare(vm, *RNG, disks="blockdev", cpu="Nehalem")
        case "cpus":
            return bare(vm, *RNG, "-smp", "2", disks="blockdev")
        case "device-added":
            return bare(vm, *RNG, *BALLOON, disks="blockdev")
        case _:
            return bare(vm, disks="blockdev")


def test_qemu_alone_finds_another_machine_when_the_disks_are_reverted_or_never(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    for disk in vm.disks:
        fill(vm, disk, 1)
    with plain_qemu(vm, bare(vm, *RNG, "-S", disks="blockdev")) as plain:
        assert run_job(plain.qmp, "snapshot-save", tag="s", vmstate="disk-a", devices=BOTH) == ""
    for what in CHANGES:
        for disk in vm.disks:
            fill(vm, disk, 2)
        with plain_qemu(vm, [*changed(vm, what), "-S"]) as plain:
            error = run_job(plain.qmp, "snapshot-load", tag="s", vmstate="disk-a", devices=BOTH)
        assert (error == "") == (what in ACCEPTED), (what, error)
        assert [holds(vm, disk, 1) for disk in vm.disks] == [True, True], what


def test_a_load_into_another_machine_is_refused_whatever_differs_and_works_in_the_one_of_then(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, *RNG, disks="blockdev")):
        assert_can(vm, "s")
    for what, code in CHANGES.items():
        with under_care(vm, changed(vm, what)):
            assert refused(vm, "load", "--discard", vm.name, "s") == [(code, None)], what
    with under_care(vm, bare(vm, *RNG, disks="blockdev")) as own:
        vm.cli("load", "--discard", vm.name, "s")
        assert run_state(own) == "running"


def test_qemu_alone_reverts_the_first_disk_before_it_sees_a_bitmap_on_the_second(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    for disk in vm.disks:
        fill(vm, disk, 1)
    with plain_qemu(vm, bare(vm, "-S", disks="blockdev")) as plain:
        assert run_job(plain.qmp, "snapshot-save", tag="s", vmstate="disk-a", devices=BOTH) == ""
    for disk in vm.disks:
        fill(vm, disk, 2)
    with plain_qemu(vm, bare(vm, "-S", disks="blockdev")) as plain:
        plain.qmp.execute("block-dirty-bitmap-add", {"node": "disk-b", "name": "backup"})
        error = run_job(plain.qmp, "snapshot-load", tag="s", vmstate="disk-a", devices=BOTH)
        assert "Device has active dirty bitmaps" in error
        assert holds(vm, vm.disks[0], 1)
        assert holds(vm, vm.disks[1], 2)
        plain.qmp.execute("cont")
        assert run_state(plain.qmp) == "running"


def test_a_disk_with_a_dirty_bitmap_is_refused_until_the_bitmap_is_gone(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm, disks="blockdev")) as monitor:
        assert_can(vm, "before")
        bitmap = {"node": "disk-b", "name": "backup"}
        monitor.execute("block-dirty-bitmap-add", bitmap)
        assert refused(vm, "create", vm.name, "with") == [("bitmap", "virtio-b")]
        assert refused(vm, "load", "--discard", vm.name, "before") == [("bitmap", "virtio-b")]
        monitor.execute("block-dirty-bitmap-remove", bitmap)
        vm.cli("load", "--discard", vm.name, "before")
        assert_can(vm, "after")
