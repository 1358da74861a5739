from __future__ import annotations

from dataclasses import replace

import pytest

from snaptree.engine.preflight import load_reasons
from snaptree.model.ids import NIL
from snaptree.model.reason import Reason
from snaptree.model.snapshot import Machine, Snapshot
from snaptree.qemu.facts import Facts, StaticFacts

THEN = Machine(
    "pc-i440fx-7.2",
    4 * 1024**3,
    "max-x86_64 tcg 0123456789abcdef",
    2,
    ("disk0=virtio-blk-pci", "pci 02.0 1af4:1001", "usb-tablet", "usb-tablet"),
)
SNAPSHOT = Snapshot("11111111-1111-4111-8111-111111111111", "s", NIL, "t", 0, 0, "full", 0, "", (), THEN)


def compare(now: Machine, then: Machine = THEN) -> tuple[Reason, ...]:
    return load_reasons(Facts(StaticFacts(), "paused", False, now, ()), replace(SNAPSHOT, machine=then))


def test_the_same_machine_is_right() -> None:
    assert compare(THEN) == ()


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (replace(THEN, machine="pc-i440fx-9.1"), "machine"),
        (replace(THEN, ram_size=8 * 1024**3), "ram-size"),
        (replace(THEN, cpu="qemu64-x86_64 tcg 0123456789abcdef"), "cpu"),
        (replace(THEN, cpu="max-x86_64 kvm 0123456789abcdef"), "cpu"),
        (replace(THEN, cpu="max-x86_64 tcg fedcba9876543210"), "cpu"),
        (replace(THEN, cpus=4), "cpus"),
        (replace(THEN, devices=(*THEN.devices, "net1=e1000")), "devices"),
        (replace(THEN, devices=THEN.devices[:-1]), "devices"),
        (replace(THEN, devices=("disk0=virtio-blk-pci", "pci 03.0 1af4:1001", *THEN.devices[2:])), "devices"),
    ],
)
def test_each_difference_is_found(now: Machine, code: str) -> None:
    assert [reason.code for reason in compare(now)] == [code]


def test_all_differences_are_reported() -> None:
    now = Machine("q35", 1, "x tcg", 1, ("y",))
    assert [reason.code for reason in compare(now)] == ["machine", "ram-size", "cpu", "cpus", "devices"]


def test_what_was_not_recorded_is_not_compared() -> None:
    assert compare(THEN, Machine()) == ()


def test_what_is_not_known_now_is_not_compared() -> None:
    assert compare(Machine()) == ()


def test_other_features_are_told_from_another_cpu() -> None:
    (features,) = compare(replace(THEN, cpu="max-x86_64 tcg fedcba9876543210"))
    (accelerator,) = compare(replace(THEN, cpu="max-x86_64 kvm 0123456789abcdef"))
    assert "other features" in features.message
    assert "max-x86_64 under kvm" in accelerator.message


def test_added_and_missing_devices_are_named_as_often_as_they_are() -> None:
    (reason,) = compare(replace(THEN, devices=("net1=e1000", *THEN.devices[:3])))
    assert 'added "net1=e1000"; missing "usb-tablet"' in reason.message


def test_a_long_list_of_devices_is_cut() -> None:
    (reason,) = compare(replace(THEN, devices=tuple(f"d{i:02}=e1000" for i in range(20))))
    assert "and 12 more" in reason.message
