"""Several disks, and disks that change: parts of them, filters, jobs, sizes, overlays."""

from __future__ import annotations

import signal
from typing import Any

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.traps.safety import (
    MIB,
    assert_can,
    attached,
    bare,
    entries,
    idle_flash,
    node,
    plain_qemu,
    refusal,
    refused,
    run_job,
    run_state,
    under_care,
)

BOTH = ["disk-a", "disk-b"]


def throttled(vm: TestVM) -> list[str]:
    """Return arguments for disk a behind a throttle filter, as node ``filter`` on the device virtio-a."""
    return [
        *("-object", "throttle-group,id=group,x-iops-total=10000"),
        *node("disk-a", vm.disks[0]),
        *("-blockdev", "throttle,node-name=filter,throttle-group=group,file=disk-a"),
        *("-device", "virtio-blk-pci,drive=filter,id=virtio-a"),
    ]


def virtual_sizes(client: QMPClient) -> list[int]:
    """Return the size of each attached disk."""
    return [found["inserted"]["image"]["virtual-size"] for found in client.execute("query-block")]


def mirror(vm: TestVM, client: QMPClient) -> dict[str, Any]:
    """Start a mirror of disk a and wait until it follows; return the arguments that end it."""
    target = {"driver": "file", "filename": str(vm.new_image("target"))}
    client.execute("blockdev-add", {"driver": "qcow2", "node-name": "target", "file": target})
    since = len(client.events)
    client.execute("blockdev-mirror", {"job-id": "copy", "device": "disk-a", "target": "target", "sync": "full"})
    client.wait_event("BLOCK_JOB_READY", since)
    return {"device": "copy"}


def end_job(client: QMPClient, which: dict[str, Any]) -> None:
    """End a job, and take its target away, which is a writable disk of the VM too."""
    client.execute("block-job-cancel", which)
    wait_until(lambda: client.execute("query-block-jobs") == [], "the job to be gone")
    client.execute("blockdev-del", {"node-name": "target"})


def test_qemu_alone_loads_one_disk_of_two_and_the_guest_runs_on_a_mix(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    client = vm.start_plain_qemu(disks="blockdev").qmp
    vm.wait_states(3)
    assert run_job(client, "snapshot-save", tag="s", vmstate="disk-a", devices=BOTH) == ""
    vm.wait_state_after(vm.states()[-1].ram + 2)
    assert run_job(client, "snapshot-load", tag="s", vmstate="disk-a", devices=["disk-a"]) == ""
    vm.wait_serial("^STATE MISMATCH")


def test_a_load_of_a_part_of_the_disks_cannot_be_asked_for(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, disks="blockdev")), vm.qmp() as client:
        assert_can(vm, "s")
        tag = client.execute("query-snapshot", {"name": "s"})["tag"]
        before = entries(client)
        assert before == {"disk-a": [("1", tag)], "disk-b": [("1", tag)]}
        part = {"job-id": "j", "tag": tag, "vmstate": "disk-a", "devices": ["disk-a"]}
        assert "snapshot-load" in refusal(client, "snapshot-load", part)["remedy"]
        assert "snapshot-create" in refusal(client, "snapshot-save", part)["remedy"]
        assert "snapshot-delete" in refusal(client, "snapshot-delete", {**part, "tag": tag})["remedy"]
        assert (
            "unexpected"
            in refusal(client, "snapshot-load", {"name": "s", "devices": ["disk-a"], "keep": False})["desc"]
        )
        assert entries(client) == before


def test_a_load_is_refused_while_a_disk_is_gone_or_new_or_read_only(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    extra = vm.new_image("extra")
    add = {"driver": "qcow2", "node-name": "loose", "file": {"driver": "file", "filename": str(extra)}}
    with attached(vm, bare(vm, *node("loose", extra))) as monitor:
        assert [device["device"] for device in assert_can(vm, "three")["devices"]] == ["virtio0", "virtio1", "loose"]
        monitor.execute("blockdev-del", {"node-name": "loose"})
        assert refused(vm, "load", "--discard", vm.name, "three") == [("device-gone", "loose")]
        monitor.execute("blockdev-add", {**add, "read-only": True})
        assert refused(vm, "load", "--discard", vm.name, "three") == [("device-gone", "loose")]
        monitor.execute("blockdev-del", {"node-name": "loose"})
        assert_can(vm, "two")
        monitor.execute("blockdev-add", add)
        assert refused(vm, "load", "--discard", vm.name, "two") == [("device-new", "loose")]
        vm.cli("load", "--discard", vm.name, "three")


def test_qemu_alone_puts_ram_into_the_uefi_variables_and_cannot_load_it_from_elsewhere(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, with_flash(vm)) as plain:
        assert plain.qmp.hmp("savevm s") == ""
        info = {
            block["device"]: block["inserted"]["image"] for block in plain.qmp.execute("query-block") if block["device"]
        }
        assert info["pflash1"]["snapshots"][0]["vm-state-size"] > 0
        error = run_job(plain.qmp, "snapshot-load", tag="s", vmstate="disk-a", devices=BOTH)
        assert error.startswith("This is a disk-only snapshot")


def with_flash(vm: TestVM) -> list[str]:
    """Return the command line of a VM whose first writable image is that of UEFI variables."""
    code, variables = idle_flash(vm), vm.new_image("variables", "528K")
    return bare(
        vm,
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=qcow2,file={variables}"),
        disks="blockdev",
        machine="q35",
    )


def test_ram_never_goes_into_the_uefi_variables_but_they_are_in_the_snapshot(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, with_flash(vm)) as own:
        found = assert_can(vm, "s")
        assert found["vmstate_device"] == "virtio-a"
        assert [device["device"] for device in found["devices"]] == ["pflash1", "virtio-a", "virtio-b"]
        images = {block["inserted"]["file"]: block["inserted"]["image"] for block in own.execute("query-block")}
        assert images[str(vm.root / "variables.qcow2")]["snapshots"][0]["vm-state-size"] == 0
        assert images[str(vm.disks[0])]["snapshots"][0]["vm-state-size"] > 0


def test_qemu_alone_loads_under_a_mirror_and_the_copy_is_stale_or_reverts_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    client = vm.start_plain_qemu(disks="blockdev").qmp
    vm.wait_states(3)
    assert run_job(client, "snapshot-save", tag="s", vmstate="disk-a", devices=BOTH) == ""
    which = mirror(vm, client)
    vm.wait_state_after(vm.states()[-1].ram + 2)
    client.execute("stop")
    error = run_job(client, "snapshot-load", tag="s", vmstate="disk-a", devices=BOTH)
    end_job(client, which)
    same = vm.tool("qemu-img", "compare", "-U", str(vm.disks[0]), str(vm.root / "target.qcow2"), check=False)
    if vm.qemu.version == "7.2":
        assert "Device has active dirty bitmaps" in error
        assert same.returncode == 0
    else:
        assert error == ""
        assert same.returncode == 1, same


def test_nothing_is_saved_or_loaded_while_a_backup_runs(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm, disks="blockdev")) as monitor:
        assert_can(vm, "before")
        target = {"driver": "file", "filename": str(vm.new_image("target"))}
        monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": "target", "file": target})
        backup = {"job-id": "copy", "device": "disk-a", "target": "target", "sync": "none"}
        monitor.execute("blockdev-backup", backup)
        assert refused(vm, "create", vm.name, "under") == [("block-job", None)]
        assert ("block-job", None) in refused(vm, "load", "--discard", vm.name, "before")
        end_job(monitor, {"device": "copy"})
        vm.cli("load", "--discard", vm.name, "before")
        assert_can(vm, "after")


def test_nothing_is_saved_or_loaded_while_a_mirror_runs(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm, disks="blockdev")) as monitor:
        assert_can(vm, "before")
        which = mirror(vm, monitor)
        # Its target is a writable disk as well, which the snapshot doesn't know.
        assert refused(vm, "create", vm.name, "under") == [("block-job", None)]
        assert refused(vm, "load", "--discard", vm.name, "before") == [("block-job", None), ("device-new", "target")]
        end_job(monitor, which)
        vm.cli("load", "--discard", vm.name, "before")
        assert_can(vm, "after")


def test_qemu_alone_dies_of_a_load_through_a_throttle_filter(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with plain_qemu(vm, bare(vm, *throttled(vm), disks="none")) as plain:
        assert run_job(plain.qmp, "snapshot-save", tag="s", vmstate="filter", devices=["filter"]) == ""
        load = {"job-id": "load", "tag": "s", "vmstate": "filter", "devices": ["filter"]}
        if vm.qemu.version == "7.2":
            assert run_job(plain.qmp, "snapshot-load", **{key: load[key] for key in load if key != "job-id"}) == ""
        else:
            plain.qmp.send("snapshot-load", load)
            assert plain.wait() == -signal.SIGABRT


def test_a_throttled_disk_is_saved_and_loaded_by_its_qcow2_node(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with under_care(vm, vm.qemu_args(*throttled(vm), disks="none")):
        vm.wait_states(3)
        (device,) = assert_can(vm, "s")["devices"]
        assert (device["device"], device["node"]) == ("virtio-a", "disk-a")
        # The filter shows the same list a second time.
        assert [found["name"] for found in vm.cli_json("list", vm.name, "--foreign")] == ["s"]
        since = vm.serial_end()
        vm.wait_states(3, since)
        vm.assert_guest_ok()


def test_qemu_alone_finds_an_external_data_file_after_it_has_written_all_ram(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.new_image("external", "64M", "-o", "data_file=data.raw")
    argv = bare(vm, *node("disk-c", vm.root / "external.qcow2"), disks="blockdev")
    with plain_qemu(vm, argv) as plain:
        before = vm.disks[0].stat().st_blocks
        error = run_job(plain.qmp, "snapshot-save", tag="s", vmstate="disk-a", devices=[*BOTH, "disk-c"])
        assert error == "Could not create snapshot 's' on 'disk-c'"
        assert vm.disks[0].stat().st_blocks > before


def test_a_disk_with_an_external_data_file_is_refused_until_it_is_converted_as_the_remedy_says(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    vm.new_image("external", "64M", "-o", "data_file=data.raw")
    with under_care(vm, bare(vm, *node("disk-c", vm.root / "external.qcow2"))):
        assert refused(vm, "create", vm.name, "s") == [("external-data-file", "disk-c")]
        (reason,) = vm.cli_json("status", vm.name)["reasons"]
        assert str(vm.root / "data.raw") in reason["message"]
    vm.cli("forget", vm.name)
    vm.tool("sh", "-c", reason["remedy"].split("`")[1])
    with under_care(vm, bare(vm, *node("disk-c", vm.root / "external.qcow2.plain.qcow2"))):
        assert_can(vm, "s")


def test_qemu_alone_shrinks_a_grown_disk_without_a_word_and_ours_asks_first(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        assert plain.qmp.hmp("savevm s") == ""
        plain.qmp.execute("block_resize", {"device": "virtio1", "size": 96 * MIB})
        assert plain.qmp.hmp("loadvm s") == ""
        assert virtual_sizes(plain.qmp) == [64 * MIB, 64 * MIB]
    with under_care(vm, bare(vm)) as own:
        assert_can(vm, "small")
        own.execute("block_resize", {"device": "virtio1", "size": 96 * MIB})
        assert refused(vm, "load", "--discard", vm.name, "small") == [("resized", "virtio1")]
        assert_can(vm, "large")
        vm.cli("load", "--discard", vm.name, "small", "--allow-resize")
        assert virtual_sizes(own) == [64 * MIB, 64 * MIB]
        assert refused(vm, "load", "--discard", vm.name, "large") == [("resized", "virtio1")]
        vm.cli("load", "--discard", vm.name, "large", "--allow-resize")
        assert virtual_sizes(own) == [64 * MIB, 96 * MIB]


def test_a_snapshot_below_an_overlay_is_found_and_works_again_after_a_commit(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm)) as monitor:
        assert_can(vm, "s")
        overlay = {
            "device": "virtio0",
            "snapshot-file": str(vm.root / "overlay.qcow2"),
            "snapshot-node-name": "overlay",
        }
        monitor.execute("blockdev-snapshot-sync", overlay)
        assert "does not exist" in monitor.hmp("loadvm s")  # QEMU alone knows nothing of it any more
        monitor.execute("cont")
        assert refused(vm, "load", "--discard", vm.name, "s") == [("overlay", "virtio0")]
        message = vm.cli("load", "--discard", vm.name, "s", check=False).stderr
        assert str(vm.disks[0]) in message
        assert "block-commit" in message
        (found,) = vm.cli_json("list", vm.name)
        assert not found["consistent"]
        assert_can(vm, "upon")
        vm.cli("delete", vm.name, "upon")

        since = len(monitor.events)
        monitor.execute("block-commit", {"device": "overlay", "job-id": "commit"})
        monitor.wait_event("BLOCK_JOB_READY", since)
        monitor.execute("block-job-complete", {"device": "commit"})
        monitor.wait_event("BLOCK_JOB_COMPLETED", since)
        vm.cli("load", "--discard", vm.name, "s")
        (found,) = vm.cli_json("list", vm.name)
        assert found["consistent"]
        assert found["current"]
        assert run_state(monitor) == "running"
