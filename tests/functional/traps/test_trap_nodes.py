"""Disks that are no ordinary qcow2 disk on a device: raw, flash, throw-away, empty, unattached, behind filters."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.traps.safety import (
    assert_can,
    attached,
    bare,
    entries,
    idle_flash,
    node,
    plain_qemu,
    refused,
    run_state,
    under_care,
)


def test_a_generated_node_name_may_be_another_at_every_start(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)):
        first = [device["node"] for device in assert_can(vm, "s")["devices"]]
    # Another drive before them takes their numbers away.
    with under_care(vm, bare(vm, "-drive", "if=none,id=before,driver=null-co,read-only=on", *two(vm), disks="none")):
        vm.cli("load", "--discard", vm.name, "s")
        second = [device["node"] for device in assert_can(vm, "t")["devices"]]
    assert all(name.startswith("#block") for name in (*first, *second))
    assert not set(first) & set(second)


def two(vm: TestVM) -> list[str]:
    """Return the arguments for both disks as ``bare`` has them."""
    return [word for path in vm.disks for word in ("-drive", f"file={path},format=qcow2,if=virtio")]


def test_a_filter_repeats_the_list_below_it_and_ours_counts_once(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    filtered = (
        *node("disk-a", vm.disks[0]),
        *("-blockdev", "copy-on-read,node-name=reads,file=disk-a"),
        *("-device", "virtio-blk-pci,drive=reads,id=virtio-a"),
    )
    with attached(vm, bare(vm, *filtered, disks="none")) as monitor:
        # An export uses the image as well, below the filter that the guest uses.
        address = {"type": "unix", "data": {"path": str(vm.root / "nbd.sock")}}
        monitor.execute("nbd-server-start", {"addr": address})
        monitor.execute("block-export-add", {"type": "nbd", "id": "export", "node-name": "disk-a"})
        assert monitor.hmp("savevm theirs") == ""  # QEMU saves that image twice
        ours = assert_can(vm, "ours")
        assert [(device["device"], device["node"]) for device in ours["devices"]] == [("virtio-a", "disk-a")]
        shown = [
            found for found in monitor.execute("query-named-block-nodes", {"flat": True}) if found["drv"] != "file"
        ]
        for found in shown:
            assert [entry["name"] for entry in found["image"]["snapshots"]] == ["theirs", "theirs", ours["tag"]]
        assert {found["drv"] for found in shown} == {"qcow2", "copy-on-read"}
        listed = vm.cli_json("list", vm.name, "--foreign")
        assert [(found["name"], len(found["devices"])) for found in listed] == [("ours", 1), ("theirs", 1)]


def test_a_writable_raw_disk_is_refused_until_it_is_converted_as_the_remedy_says(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    raw = vm.root / "c d.raw"
    raw.write_bytes(bytes(1 << 20))
    with attached(vm, bare(vm, "-drive", f"file={raw},format=raw,if=virtio")) as monitor:
        assert "is writable but does not support snapshots" in monitor.hmp("savevm s")
        assert refused(vm, "create", vm.name, "s") == [("not-qcow2", "virtio2")]
        (reason,) = vm.cli_json("status", vm.name)["reasons"]
    vm.cli("forget", vm.name)
    vm.tool("sh", "-c", reason["remedy"].split("`")[1])
    with under_care(vm, bare(vm, "-drive", f"file={raw}.qcow2,format=qcow2,if=virtio")):
        assert len(assert_can(vm, "s")["devices"]) == 3
    vm.cli("forget", vm.name)
    with under_care(vm, bare(vm, "-drive", f"file={raw},format=raw,if=virtio,read-only=on")):
        assert len(assert_can(vm, "t")["devices"]) == 2


def test_raw_uefi_variables_are_refused_until_they_are_qcow2_or_read_only(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    code, variables = idle_flash(vm), vm.root / "variables.raw"
    variables.write_bytes(bytes(528 << 10))

    def flash(how: str) -> list[str]:
        units = (f"format=raw,readonly=on,file={code}", how)
        drives = [word for unit, text in enumerate(units) for word in ("-drive", f"if=pflash,unit={unit},{text}")]
        return bare(vm, *drives, machine="q35")

    with attached(vm, flash(f"format=raw,file={variables}")) as monitor:
        assert "Device 'pflash1' is writable but does not support snapshots" in monitor.hmp("savevm s")
        assert refused(vm, "create", vm.name, "s") == [("not-qcow2", "pflash1")]
        (reason,) = vm.cli_json("status", vm.name)["reasons"]
    vm.cli("forget", vm.name)
    vm.tool("sh", "-c", reason["remedy"].split("`")[1])
    with under_care(vm, flash(f"format=qcow2,file={variables}.qcow2")):
        assert_can(vm, "s")
    vm.cli("forget", vm.name)
    with under_care(vm, flash(f"format=raw,readonly=on,file={variables}")):
        assert_can(vm, "s")


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
def test_a_deleted_snapshot_gives_its_room_back_or_status_says_why_not(vm_factory: VMFactory, discard: str) -> None:
    vm = vm_factory(disks=1)
    disk = (
        *("-blockdev", f"file,node-name=file-a,filename={vm.disks[0]},discard={discard}"),
        *("-blockdev", "qcow2,node-name=disk-a,file=file-a"),
        *("-device", "virtio-blk-pci,drive=disk-a,id=virtio-a"),
    )
    with under_care(vm, bare(vm, *disk, disks="none")), vm.qmp() as client:
        empty = vm.disks[0].stat().st_blocks
        client.execute("snapshot-create", {"name": "s"})
        full = vm.disks[0].stat().st_blocks
        client.execute("snapshot-delete", {"name": "s"})
        left = vm.disks[0].stat().st_blocks
        advice = [(found["code"], found["device"]) for found in vm.cli_json("status", vm.name)["advice"]]
        assert full > empty
        if discard == "unmap":
            assert left < full
            assert advice == []
        else:
            assert left >= full
            assert advice == [("discard", "virtio-a")]


def test_empty_drives_and_read_only_media_do_not_matter(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    medium = vm.new_image("medium")
    drives = (
        *("-drive", "if=ide,media=cdrom,id=cd"),
        *("-drive", "if=floppy,id=floppy"),
        *("-drive", f"if=none,id=none,format=qcow2,read-only=on,file={medium}"),
    )
    with under_care(vm, bare(vm, *drives)):
        assert [device["device"] for device in assert_can(vm, "s")["devices"]] == ["virtio0", "virtio1"]


def test_a_writable_medium_in_a_removable_drive_belongs_to_the_snapshot(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    medium = vm.new_image("medium", "1440K")
    with attached(vm, bare(vm, "-drive", f"if=floppy,id=floppy,format=qcow2,file={medium}")) as monitor:
        assert len(assert_can(vm, "in")["devices"]) == 3
        monitor.execute("eject", {"device": "floppy", "force": True})
        assert refused(vm, "load", "--discard", vm.name, "in") == [("device-gone", "floppy")]
        assert len(assert_can(vm, "out")["devices"]) == 2


def test_a_writable_node_that_nothing_uses_belongs_to_the_snapshot_or_stands_against_it(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    loose, raw = vm.new_image("loose"), vm.root / "raw.raw"
    raw.write_bytes(bytes(1 << 20))
    with attached(vm, bare(vm, *node("loose", loose), *node("plain", raw, "raw"))) as monitor:
        said = monitor.hmp("savevm theirs")
        if vm.qemu.version == "7.2":
            assert "Device 'plain' is writable but does not support snapshots" in said
        else:
            assert said == ""
            assert entries(monitor)["loose"] == []  # newer QEMUs leave such a disk out
        assert refused(vm, "create", vm.name, "s") == [("not-qcow2", "plain")]
        monitor.execute("blockdev-del", {"node-name": "plain"})
        found = assert_can(vm, "s")
        assert [device["device"] for device in found["devices"]] == ["virtio0", "virtio1", "loose"]
        assert len(entries(monitor)["loose"]) == 1


def test_throw_away_disks_lose_a_snapshot_of_plain_qemu_and_ours_is_refused(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm, "-snapshot")) as plain:
        assert plain.qmp.hmp("savevm s") == ""
        assert plain.qmp.hmp("loadvm s") == ""
    with plain_qemu(vm, bare(vm)) as plain:
        assert "does not exist" in plain.qmp.hmp("loadvm s")
    with attached(vm, bare(vm, "-snapshot")):
        assert refused(vm, "create", vm.name, "s") == [("temporary", "virtio0"), ("temporary", "virtio1")]
    vm.cli("forget", vm.name)
    with under_care(vm, bare(vm)):
        assert_can(vm, "s")
    run = vm.cli("run", "--detach", vm.name, "--", *bare(vm, "-snapshot"), check=False)
    assert run.returncode == 4
    assert "snaptree load" in run.stderr
    with plain_qemu(vm, bare(vm, "-snapshot")) as plain:
        attach = vm.cli("attach", "--detach", vm.name, "--qmp", f"unix:{plain.attach_socket}", check=False)
        assert attach.returncode == 4
        assert run_state(plain.qmp) == "running"
    assert vm.cli_json("vms")[0]["state"] == "stopped"
