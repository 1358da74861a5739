"""What stands against a snapshot in the whole VM: its run state, and what was set or plugged for a migration."""

from __future__ import annotations

import signal
import socket

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.traps.safety import (
    assert_can,
    attached,
    bare,
    idle_flash,
    plain_qemu,
    refused,
    run_job,
    run_state,
    under_care,
)

BOTH = ["disk-a", "disk-b"]
RUN_STATE = [("run-state", None)]
PANIC = bytes.fromhex("ba0505 b001 ee f4 ebfd")
"""mov dx, 0x505; mov al, 1; out dx, al; hlt: the guest says to pvpanic that it panicked."""


def turn(client: QMPClient, capability: str, *, on: bool) -> None:
    """Turn a migration capability on or off."""
    client.execute("migrate-set-capabilities", {"capabilities": [{"capability": capability, "state": on}]})


def wait_run_state(client: QMPClient, state: str) -> None:
    """Wait until the VM is in a run state."""
    wait_until(lambda: run_state(client) == state, f"the run state {state}")


def migrate_to_file(vm: TestVM, client: QMPClient) -> str:
    """Migrate the VM away; return from where it can come in again."""
    file = vm.root / "migrated"
    client.execute("migrate", {"uri": f"exec:cat > {file}"})
    wait_run_state(client, "postmigrate")
    return f"exec:cat {file}"


@pytest.mark.parametrize("capability", ["multifd", "mapped-ram"])
def test_qemu_alone_cannot_save_with_a_capability_of_migration(vm_factory: VMFactory, capability: str) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm, disks="blockdev")) as plain:
        if capability == "mapped-ram" and vm.qemu.version == "7.2":
            with pytest.raises(QMPError, match="does not accept value"):
                turn(plain.qmp, capability, on=True)
            return
        turn(plain.qmp, capability, on=True)
        arguments = {"tag": "s", "vmstate": "disk-a", "devices": BOTH}
        if capability == "mapped-ram":
            assert "Input/output error" in run_job(plain.qmp, "snapshot-save", **arguments)
        else:
            plain.qmp.send("snapshot-save", {"job-id": "save", **arguments})
            assert plain.wait() == -signal.SIGSEGV


def test_a_capability_that_breaks_snapshots_is_refused_until_it_is_off(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm)) as monitor:
        assert_can(vm, "s")
        there = {item["capability"] for item in monitor.execute("query-migrate-capabilities")}
        harmful = sorted(there & {"mapped-ram", "multifd", "x-ignore-shared"})
        assert len(harmful) == (2 if vm.qemu.version == "7.2" else 3)
        for capability in harmful:
            turn(monitor, capability, on=True)
            assert refused(vm, "create", vm.name, "t") == [("capability", None)], capability
            assert refused(vm, "load", "--discard", vm.name, "s") == [("capability", None)], capability
            turn(monitor, capability, on=False)
        assert_can(vm, "t")


def test_a_vm_that_was_migrated_away_or_waits_for_a_migration_is_refused_by_its_state(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)) as own:
        assert_can(vm, "s")
        origin = migrate_to_file(vm, own)
        assert refused(vm, "create", vm.name, "t") == RUN_STATE
        assert refused(vm, "load", "--discard", vm.name, "s") == RUN_STATE
        assert "is writable but does not support snapshots" in own.hmp("savevm t")  # what QEMU says of it
    with under_care(vm, bare(vm, "-incoming", "defer")) as own:
        assert run_state(own) == "inmigrate"
        assert refused(vm, "create", vm.name, "t") == RUN_STATE
        assert refused(vm, "load", "--discard", vm.name, "s") == RUN_STATE
        assert "is writable but does not support snapshots" in own.hmp("savevm t")
        own.execute("migrate-incoming", {"uri": origin})
        wait_run_state(own, "running")
        assert_can(vm, "t")
        vm.cli("load", "--discard", vm.name, "s")
        migrate_to_file(vm, own)
        own.execute("cont")
        assert_can(vm, "u")


def test_a_migration_under_way_is_refused_until_it_is_cancelled(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm)) as monitor, socket.socket(socket.AF_UNIX) as nobody:
        assert_can(vm, "s")
        nobody.bind(f"{vm.root}/nobody.sock")
        nobody.listen()  # and reads nothing, so that it never ends
        monitor.execute("migrate", {"uri": f"unix:{vm.root}/nobody.sock"})
        wait_until(lambda: monitor.execute("query-migrate").get("status") == "active", "the migration to be active")
        assert refused(vm, "create", vm.name, "t") == [("migration", None)]
        assert refused(vm, "load", "--discard", vm.name, "s") == [("migration", None)]
        monitor.execute("migrate_cancel")
        wait_until(lambda: monitor.execute("query-migrate")["status"] == "cancelled", "the migration to be cancelled")
        vm.cli("load", "--discard", vm.name, "s")
        assert_can(vm, "t")


def test_a_vm_that_has_shut_down_takes_no_snapshot_and_runs_again_after_a_load(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    argv = bare(vm, "-no-shutdown", "-no-reboot")  # with both, a reset is a shutdown that QEMU outlives

    def shut_down(client: QMPClient) -> None:
        client.execute("system_reset")
        wait_run_state(client, "shutdown")

    with plain_qemu(vm, argv) as plain:
        assert plain.qmp.hmp("savevm s") == ""
        shut_down(plain.qmp)
        assert plain.qmp.hmp("loadvm s") == ""
        with pytest.raises(QMPError, match="Resetting the Virtual Machine is required"):
            plain.qmp.execute("cont")
    with under_care(vm, argv) as own:
        assert_can(vm, "s")
        shut_down(own)
        assert refused(vm, "create", vm.name, "t") == RUN_STATE
        vm.cli("load", "--discard", vm.name, "s")
        own.execute("cont")
        assert run_state(own) == "running"
        assert_can(vm, "t")
        shut_down(own)  # -no-reboot is as it was


def test_a_guest_that_panicked_can_be_saved_and_goes_back_to_before_the_panic(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    firmware = idle_flash(vm, start=PANIC)
    argv = bare(vm, "-S", "-bios", str(firmware), "-device", "pvpanic", "-action", "panic=pause")
    with under_care(vm, argv) as own, vm.qmp() as client:
        assert run_state(own) == "prelaunch"
        assert_can(vm, "before")
        for attempt in ("first", "second"):
            since = len(client.events)
            client.execute("cont")
            client.wait_event("GUEST_PANICKED", since)
            wait_run_state(own, "guest-panicked")
            assert_can(vm, attempt)
            client.execute("snapshot-load", {"name": "before", "keep": False})
            assert not client.execute("query-status")["running"]


def test_a_device_that_cannot_be_migrated_is_named_and_without_it_all_works(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    memory = f"memory-backend-file,id=shared,size=1M,share=on,mem-path={vm.root}/shared"
    with attached(vm, bare(vm, "-object", memory, "-device", "ivshmem-plain,memdev=shared")) as monitor:
        assert "Migration is disabled when using feature 'peer mode'" in monitor.hmp("savevm s")
        assert refused(vm, "create", vm.name, "s") == [("migration-blocked", None)]
        assert "'peer mode' in device 'ivshmem'" in vm.cli_json("status", vm.name)["reasons"][0]["message"]
    with under_care(vm, bare(vm)):
        assert_can(vm, "s")


def test_a_writable_host_folder_is_named_and_read_only_it_does_not_matter(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    folder = vm.root / "folder"
    folder.mkdir()
    with attached(vm, bare(vm, "-drive", f"file=fat:rw:{folder},format=raw,if=virtio")) as monitor:
        assert "does not support live migration" in monitor.hmp("savevm s")
        found = refused(vm, "create", vm.name, "s")
        assert set(found) == {("migration-blocked", None), ("not-qcow2", "virtio2")}
    vm.cli("forget", vm.name)
    with under_care(vm, bare(vm, "-drive", f"file=fat:{folder},format=raw,if=virtio,read-only=on")):
        assert_can(vm, "s")
