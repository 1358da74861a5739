"""A guest walks through its snapshots at random: RAM and disks are those of the moment, every byte, whatever dies."""

from __future__ import annotations

import os

import pytest
from tests.conftest import VMFactory
from tests.framework.walk import Walk

STEPS = int(os.environ.get("SNAPTREE_WALK_STEPS", "90"))
SEED = int(os.environ.get("SNAPTREE_WALK_SEED", "20"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("guest", "tracker", "cache"),
    [
        ("linux", "userfaultfd", "none"),
        ("firmware", "userfaultfd", "writeback"),
        ("firmware", "compare", "none"),
        ("linux", "compare", "writeback"),
    ],
)
def test_every_load_brings_back_every_byte(vm_factory: VMFactory, guest: str, tracker: str, cache: str) -> None:
    vm = vm_factory(guest=guest, pace_ms=10)  # type: ignore[arg-type]
    vm.env["SNAPTREE_TRACKER"] = tracker
    args = vm.qemu_args(cache=cache)
    vm.cli("run", "--detach", vm.name, "--", *args)
    vm.wait_states(2)
    Walk(vm, args, SEED).walk(STEPS)


@pytest.mark.long
def test_every_load_brings_back_every_byte_under_kvm(vm_factory: VMFactory, kvm: None) -> None:
    vm = vm_factory(pace_ms=10)
    args = vm.qemu_args(accel="kvm")
    vm.cli("run", "--detach", vm.name, "--", *args)
    vm.wait_states(2)
    Walk(vm, args, SEED).walk(STEPS)
