"""What the tests of undo share: VMs that run, their automatic snapshots, all of their RAM.  Not for: any one rule."""

from __future__ import annotations

from array import array
from typing import Any

from tests.framework.ram import digests
from tests.framework.vm import TestVM
from tests.functional.main.moments import go_on
from tests.functional.traps.safety import bare

from snaptree.places.places import VMPlace

Ram = dict[str, "array[int]"]

SECTION = b"mc146818rtc"
"""The name of a section of every VM state of a PC; another name in its place makes QEMU fail after the disks."""


def place_of(vm: TestVM) -> VMPlace:
    """Return the VM's place."""
    return VMPlace(vm.name, vm.home / "vms" / vm.name, vm.runtime / "snaptree" / vm.name)


def started(vm: TestVM, *options: str) -> TestVM:
    """Run a VM whose guest counts."""
    vm.cli("run", "--detach", *options, vm.name, "--", *vm.qemu_args())
    vm.wait_states(2)
    return vm


def run_bare(vm: TestVM, *options: str) -> TestVM:
    """Run a VM without a guest: nobody but the test writes to its disks."""
    vm.cli("run", "--detach", *options, vm.name, "--", *bare(vm))
    return vm


def shown(vm: TestVM) -> list[dict[str, Any]]:
    """Return all snapshots."""
    found: list[dict[str, Any]] = vm.cli_json("list", vm.name)
    return found


def automatic(vm: TestVM) -> list[str]:
    """Return the names of the automatic snapshots, oldest first."""
    return [snapshot["name"] for snapshot in shown(vm) if snapshot["automatic"]]


def current(vm: TestVM) -> str:
    """Return the name of the current snapshot."""
    return next((snapshot["name"] for snapshot in shown(vm) if snapshot["current"]), "")


def parents(vm: TestVM) -> dict[str, str]:
    """Return the name of each snapshot's parent."""
    return {snapshot["name"]: snapshot["parent_name"] for snapshot in shown(vm)}


def pid_of(vm: TestVM) -> int:
    """Return QEMU's pid."""
    return int(next(found["qemu_pid"] for found in vm.cli_json("vms") if found["name"] == vm.name))


def ram_of(vm: TestVM) -> Ram:
    """Return all RAM of a VM that stands still."""
    return digests(pid_of(vm))


def stand(vm: TestVM) -> Ram:
    """Let the guest go on, stop the VM, and return its RAM."""
    go_on(vm)
    with vm.qmp() as client:
        client.execute("stop")
    return ram_of(vm)


def cont(vm: TestVM) -> None:
    """Continue the VM."""
    with vm.qmp() as client:
        client.execute("cont")


def spoil(vm: TestVM) -> None:
    """Damage the VM state of every snapshot that there is, so that QEMU reverts the disks and then fails."""
    data = bytearray(vm.disks[0].read_bytes())
    at, found = data.find(SECTION), 0
    with vm.disks[0].open("r+b") as file:
        while at >= 0:
            file.seek(at)
            file.write(b"X")
            found += 1
            at = data.find(SECTION, at + 1)
    assert found
