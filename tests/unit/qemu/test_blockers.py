from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from snaptree.model.reason import Reason
from snaptree.qemu.blockers import MIGRATION_RUNS, advice, choose_vmstate_device, create_reasons
from snaptree.qemu.capabilities import BREAKS_LOAD, BREAKS_SAVE
from snaptree.qemu.facts import Facts, Job
from snaptree.qemu.host import Host

if TYPE_CHECKING:
    from .conftest import Recorded

    Open = Callable[[str], Recorded]

MIB = 1024**2


def codes(reasons: tuple[Reason, ...]) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.device) for reason in reasons]


@pytest.fixture
def ready(recorded: Open) -> Facts:
    """A VM with two disks in which nothing stands against a snapshot."""
    return recorded("drives").facts()


@pytest.mark.parametrize(
    "name",
    [
        "drives",
        "blockdevs",
        "throttle",
        "copy-on-read",
        "raw-over-qcow2",
        "pflash-qcow2",
        "removable",
        "read-only",
        "scsi",
        "overlay",
        "export",
        "cpu-max",
        "throttled-drive",
        "serial-vga-usb",
        "drives-qemu10",
        "blockdevs-qemu10",
        "throttle-qemu10",
        "overlay-qemu10",
        "pflash-qcow2-qemu10",
    ],
)
def test_nothing_stands_against_a_snapshot_of_an_ordinary_vm(recorded: Open, name: str) -> None:
    assert create_reasons(recorded(name).facts()) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pflash-raw", [("not-qcow2", "pflash1")]),
        ("raw-disk", [("not-qcow2", "virtio1")]),
        ("unattached", [("not-qcow2", "loose")]),
        ("snapshot-option", [("temporary", "virtio0")]),
        ("bitmap", [("bitmap", "disk0")]),
        ("external-data-file", [("external-data-file", "disk0"), ("no-vmstate-device", None)]),
        ("mirror", [("block-job", None)]),
        ("backup-kept", [("backup", "disk0")]),
        ("closed-as-corrupt", [("corrupt", "sys")]),
        ("firmware-only", [("no-vmstate-device", None)]),
        ("blocked", [("migration-blocked", None)]),
        ("capabilities", [("capability", None), ("capability", None)]),
        ("incoming", [("run-state", None)]),
        ("preconfig", [("run-state", None)]),
        ("unstable-input", [("block-nodes", None)]),
        ("snapshot-option-qemu10", [("temporary", "virtio0")]),
        ("bitmap-qemu10", [("bitmap", "disk0")]),
        ("mirror-qemu10", [("block-job", None)]),
        ("closed-as-corrupt-qemu10", [("corrupt", "sys")]),
        ("incoming-qemu10", [("run-state", None)]),
        ("preconfig-qemu10", [("run-state", None)]),
    ],
)
def test_what_stands_against_a_snapshot_is_named(
    recorded: Open, name: str, expected: list[tuple[str, str | None]]
) -> None:
    assert codes(create_reasons(recorded(name).facts())) == expected


def test_every_reason_is_a_sentence_with_a_remedy(every_recorded: Recorded) -> None:
    facts = every_recorded.facts()
    for reason in (*create_reasons(facts), *advice(facts)):
        assert reason.message.endswith(".")
        assert ".." not in reason.message
        assert reason.remedy.endswith(".")
        assert reason.message.isprintable()


def test_all_reasons_are_reported_and_not_only_the_first(ready: Facts) -> None:
    first, second = ready.devices
    facts = replace(
        ready,
        run_state="shutdown",
        migration="active",
        block_jobs=(Job("virtio0", "mirror", "running"),),
        capabilities=frozenset({"multifd"}),
        devices=(replace(first, driver="raw"), replace(second, corrupt=True)),
    )
    assert {code for code, _ in codes(create_reasons(facts))} == {
        "run-state", "migration", "block-job", "capability", "not-qcow2", "corrupt",
    }  # fmt: skip


def test_vm_state_never_goes_into_flash_memory(recorded: Open) -> None:
    facts = recorded("pflash-qcow2").facts()
    assert [device.device for device in facts.devices] == ["vars", "disk0"]
    chosen = choose_vmstate_device(facts)
    assert chosen is not None
    assert chosen.device == "disk0"


def test_vm_state_goes_to_the_first_disk_that_can_hold_it(ready: Facts) -> None:
    first, second = ready.devices
    assert choose_vmstate_device(ready) == first
    for spoiled in (replace(first, driver="raw"), replace(first, external_data_file="/x")):
        assert choose_vmstate_device(replace(ready, devices=(spoiled, second))) == second
    assert choose_vmstate_device(replace(ready, devices=())) is None


@pytest.mark.parametrize("name", sorted(BREAKS_SAVE))
def test_a_harmful_capability_is_refused_with_the_command_that_ends_it(ready: Facts, name: str) -> None:
    (reason,) = create_reasons(replace(ready, capabilities=frozenset({name})))
    assert reason.code == "capability"
    assert f"`migrate_set_capability {name} off`" in reason.remedy


def test_what_breaks_a_load_breaks_a_save_too() -> None:
    assert BREAKS_LOAD.keys() <= BREAKS_SAVE.keys()


@pytest.mark.parametrize("name", ["xbzrle", "events", "return-path", "auto-converge", "release-ram"])
def test_a_harmless_capability_is_left_alone(ready: Facts, name: str) -> None:
    assert create_reasons(replace(ready, capabilities=frozenset({name}))) == ()


@pytest.mark.parametrize("status", sorted(MIGRATION_RUNS))
def test_a_migration_under_way_is_refused(ready: Facts, status: str) -> None:
    assert codes(create_reasons(replace(ready, migration=status))) == [("migration", None)]


@pytest.mark.parametrize("status", ["", "none", "completed", "failed", "cancelled"])
def test_a_migration_or_save_that_is_over_is_none(ready: Facts, status: str) -> None:
    assert create_reasons(replace(ready, migration=status)) == ()


def test_another_job_is_refused(ready: Facts) -> None:
    assert codes(create_reasons(replace(ready, jobs=(Job("j", "create", "running"),)))) == [("job", None)]


@pytest.mark.parametrize(
    ("free_mib", "used_mib", "refused"),
    [(127, 0, True), (128, 0, False), (127, 62, False), (127, 64, True), (0, 0, True)],
)
def test_vm_state_needs_ram_or_less_and_a_margin(ready: Facts, free_mib: int, used_mib: int, refused: bool) -> None:
    first, second = ready.devices
    facts = replace(
        ready,
        host=Host(ram_used_bytes=used_mib * MIB),
        devices=(replace(first, host_free_bytes=free_mib * MIB), replace(second, host_free_bytes=0)),
    )
    assert codes(create_reasons(facts)) == ([("space", "virtio0")] if refused else [])
    assert create_reasons(facts, ram_in_image=False) == ()


def test_unknown_space_is_no_reason(ready: Facts) -> None:
    assert all(device.host_free_bytes is None for device in ready.devices)
    assert create_reasons(ready) == ()


def test_a_remedy_quotes_the_file_for_a_shell(ready: Facts) -> None:
    first, second = ready.devices
    awkward = replace(second, driver="raw", file="/vm/my disk's.img")
    (reason,) = create_reasons(replace(ready, devices=(first, awkward)))
    assert "'/vm/my disk'\"'\"'s.img'" in reason.remedy


def test_a_file_name_from_outside_is_never_printed_raw(ready: Facts) -> None:
    first, second = ready.devices
    evil = replace(second, driver="raw", file="/vm/\x1b[31m\n.img")
    (reason,) = create_reasons(replace(ready, devices=(first, evil)))
    assert reason.message.isprintable()
    assert reason.remedy.isprintable()


def test_that_deleting_frees_no_space_is_advice(ready: Facts) -> None:
    first, second = ready.devices
    facts = replace(ready, devices=(first, replace(second, discard_lost=True)))
    assert create_reasons(facts) == ()
    assert codes(advice(facts)) == [("discard", "virtio1")]


@pytest.mark.parametrize(("count", "advised"), [(100, False), (101, True)])
def test_more_than_a_hundred_snapshots_are_worth_an_advice(ready: Facts, count: int, advised: bool) -> None:
    first, second = ready.devices
    many = replace(first, snapshots=first.snapshots * count)
    expected = [("many-snapshots", "virtio0")] if advised else []
    assert codes(advice(replace(ready, devices=(many, second)))) == expected


def test_small_clusters_in_a_large_image_are_worth_an_advice(ready: Facts) -> None:
    first, second = ready.devices
    large = replace(first, allocated_bytes=40 * 1024**3)
    assert codes(advice(replace(ready, devices=(large, second)))) == [("small-clusters", "virtio0")]
    assert advice(replace(ready, devices=(replace(large, cluster_size=1024**2), second))) == ()
