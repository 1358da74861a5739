from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snaptree.engine.preflight import load_reasons, presence
from snaptree.model.ids import NIL
from snaptree.model.reason import Reason
from snaptree.model.snapshot import Device, Machine, Snapshot
from snaptree.qcow2.table import ImageSnapshot
from snaptree.qemu.blockdevs import BackingImage, Bitmap, BlockDevice
from snaptree.qemu.facts import Facts, Job, StaticFacts

GIB = 1024**3
TAG = f"s@11111111-1111-4111-8111-111111111111^{NIL}"
CLOCK_NS = 5 * 10**9
MACHINE = Machine("pc-i440fx-7.2", GIB, "max-x86_64 tcg 0123456789abcdef", 2, ("net0=virtio-net-pci", "usb-tablet"))


def held(vm_state_size: int = 0, *, tag: str = TAG, vm_clock_ns: int = CLOCK_NS) -> ImageSnapshot:
    return ImageSnapshot("1", tag, 10**18, vm_clock_ns, vm_state_size, None, None, 0, 0)


A = BlockDevice("a", "#block1", "#block1", "/vm/a.qcow2", "qcow2", True, GIB, snapshots=(held(4096),))
B = BlockDevice("b", "#block2", "#block2", "/vm/b.qcow2", "qcow2", True, 2 * GIB, snapshots=(held(),))
C = BlockDevice("c", "#block3", "#block3", "/vm/c.qcow2", "qcow2", True, GIB)
FACTS = Facts(StaticFacts((7, 2, 22), MACHINE.machine, MACHINE.cpu), "running", True, MACHINE, (A, B))
SNAPSHOT = Snapshot(
    id="11111111-1111-4111-8111-111111111111",
    name="s",
    parent_id=NIL,
    tag=TAG,
    created_ns=10**18,
    vm_clock_ns=CLOCK_NS,
    memory="full",
    vm_state_size=4096,
    vmstate_device="a",
    devices=(Device("a", "#block9", "/vm/a.qcow2", GIB), Device("b", "#block8", "/vm/b.qcow2", 2 * GIB)),
    machine=MACHINE,
)


def codes(reasons: tuple[Reason, ...]) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.device) for reason in reasons]


def found(facts: Facts = FACTS, snapshot: Snapshot = SNAPSHOT) -> list[tuple[str, str | None]]:
    reasons = load_reasons(facts, snapshot)
    for reason in reasons:
        assert reason.message.endswith(".")
        assert reason.remedy.endswith(".")
        assert reason.message.isprintable()
    return codes(reasons)


def with_b(**changes: Any) -> Facts:
    return replace(FACTS, devices=(A, replace(B, **changes)))


def test_nothing_stands_against_a_load_into_the_same_vm() -> None:
    assert found() == []
    assert presence(FACTS, SNAPSHOT) == {"a", "b"}


def test_node_names_are_not_compared_since_they_differ_at_every_start() -> None:
    assert {d.node for d in SNAPSHOT.devices}.isdisjoint(d.node for d in FACTS.devices)
    assert found() == []


@pytest.mark.parametrize("state", ["running", "paused", "restore-vm", "guest-panicked", "io-error", "shutdown"])
def test_going_back_is_possible_from(state: str) -> None:
    assert found(replace(FACTS, run_state=state)) == []


@pytest.mark.parametrize("state", ["inmigrate", "postmigrate", "preconfig", "finish-migrate"])
def test_the_run_state_can_forbid_it(state: str) -> None:
    assert found(replace(FACTS, run_state=state)) == [("run-state", None)]


def test_a_block_job_and_a_migration_forbid_it() -> None:
    facts = replace(FACTS, block_jobs=(Job("b", "mirror", "ready"),), migration="active", blocked=("nvme",))
    assert found(facts) == [("block-job", "b"), ("migration", None), ("migration-blocked", None)]


@pytest.mark.parametrize(
    ("name", "refused"), [("multifd", True), ("mapped-ram", True), ("x-ignore-shared", True), ("postcopy-ram", False)]
)
def test_only_a_capability_that_breaks_a_load_forbids_it(name: str, refused: bool) -> None:
    assert found(replace(FACTS, capabilities=frozenset({name}))) == ([("capability", None)] if refused else [])


def test_a_bitmap_on_any_device_forbids_it() -> None:
    assert found(with_b(bitmaps=(Bitmap("#block2", "backup"),))) == [("bitmap", "b")]


def test_a_snapshot_with_a_flaw_is_not_loaded() -> None:
    assert found(snapshot=replace(SNAPSHOT, flaw="The save was interrupted.")) == [("flawed", None)]


def test_disks_without_ram_are_not_loaded_into_a_running_vm() -> None:
    disks = replace(SNAPSHOT, memory="none", vmstate_device="", vm_state_size=0)
    assert found(replace(FACTS, devices=(replace(A, snapshots=(held(),)), B)), disks) == [("disks-only", None)]


def test_a_missing_tag_is_found_on_any_device() -> None:
    assert found(with_b(snapshots=())) == [("tag-missing", "b")]
    assert presence(with_b(snapshots=()), SNAPSHOT) == {"a"}


def test_a_tag_that_is_there_twice_is_found() -> None:
    assert found(with_b(snapshots=(held(), held()))) == [("tag-twice", "b")]


def test_another_vm_clock_on_one_device_is_found() -> None:
    assert found(with_b(snapshots=(held(vm_clock_ns=CLOCK_NS + 1),))) == [("vm-clock", None)]


def test_another_vm_clock_than_recorded_is_found() -> None:
    assert found(snapshot=replace(SNAPSHOT, vm_clock_ns=CLOCK_NS + 1)) == [("vm-clock", None)]


def test_a_lost_vm_state_is_found() -> None:
    assert found(replace(FACTS, devices=(replace(A, snapshots=(held(),)), B))) == [("vm-state-missing", "a")]


def test_a_vm_state_on_another_device_than_recorded_is_found() -> None:
    assert found(snapshot=replace(SNAPSHOT, vmstate_device="b")) == [("vm-state-elsewhere", "b")]


def test_a_device_that_is_gone_is_found() -> None:
    assert ("device-gone", "b") in found(replace(FACTS, devices=(A,)))


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (replace(FACTS, devices=(A,)), "not attached"),
        (replace(FACTS, devices=(A,), read_only=(replace(B, writable=False),)), "read-only"),
        (replace(FACTS, devices=(A,), closed=("b",)), "corrupt"),
        (replace(FACTS, devices=(A, replace(B, device="c"))), "attached as c"),
    ],
)
def test_it_is_said_where_a_device_went(facts: Facts, word: str) -> None:
    reason = next(r for r in load_reasons(facts, SNAPSHOT) if r.code == "device-gone")
    assert word in reason.message


def test_a_new_writable_device_is_found() -> None:
    assert found(replace(FACTS, devices=(A, B, C))) == [("device-new", "c")]


def test_a_new_read_only_device_is_no_matter() -> None:
    assert found(replace(FACTS, read_only=(replace(C, writable=False),))) == []


def test_images_that_were_swapped_are_found() -> None:
    swapped = replace(
        FACTS, devices=(replace(A, file=B.file, snapshots=B.snapshots), replace(B, file=A.file, snapshots=A.snapshots))
    )
    assert found(swapped) == [("image-swapped", "a"), ("image-swapped", "b"), ("vm-state-elsewhere", "a")]


def test_an_image_may_have_moved() -> None:
    assert found(with_b(file="/elsewhere/b.qcow2")) == []


def test_an_image_whose_place_was_not_recorded_is_not_compared() -> None:
    recorded = tuple(replace(device, file="") for device in SNAPSHOT.devices)
    assert found(snapshot=replace(SNAPSHOT, devices=recorded)) == []


def test_an_overlay_on_top_is_told_from_a_lost_snapshot() -> None:
    below = BackingImage("/vm/b.qcow2", "n0", (TAG,))
    assert found(with_b(file="/vm/overlay.qcow2", snapshots=(), backing=(below,))) == [("overlay", "b")]
    assert found(with_b(snapshots=(), backing=(replace(below, tags=("other",)),))) == [("tag-missing", "b")]


def test_the_snapshot_option_is_told_from_a_lost_snapshot() -> None:
    below = BackingImage("/vm/b.qcow2", "n0", (TAG,))
    facts = with_b(file="/var/tmp/vl.abcdef", snapshots=(), backing=(below,), temporary=True)
    assert found(facts) == [("temporary", "b")]


@pytest.mark.parametrize("size", [GIB, 3 * GIB])
def test_a_disk_that_was_resized_needs_consent(size: int) -> None:
    assert found(with_b(size=size)) == [("resized", "b")]
    assert load_reasons(with_b(size=size), SNAPSHOT, allow_resize=True) == ()


def test_only_growth_loses_data_at_its_end() -> None:
    (grown,) = load_reasons(with_b(size=3 * GIB), SNAPSHOT)
    (shrunk,) = load_reasons(with_b(size=GIB), SNAPSHOT)
    assert "lost" in grown.message
    assert "lost" not in shrunk.message


def test_a_size_that_was_not_recorded_is_not_compared() -> None:
    recorded = tuple(replace(device, size=0) for device in SNAPSHOT.devices)
    assert found(with_b(size=5), replace(SNAPSHOT, devices=recorded)) == []


def test_where_qemu_lists_no_nodes_nothing_is_said_of_devices() -> None:
    facts = replace(FACTS, devices=(), nodes_error="Block device x is ejected.", closed=("a",))
    assert found(facts) == [("corrupt", "a")]


def test_all_reasons_are_reported_and_not_only_the_first() -> None:
    facts = replace(with_b(snapshots=()), run_state="inmigrate", machine=replace(MACHINE, ram_size=2 * GIB))
    assert {code for code, _ in found(facts)} == {"run-state", "tag-missing", "ram-size"}
