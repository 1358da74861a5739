"""Damage in the page store refuses a load before anything is touched, also where only the pause shows the need."""

from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import VMFactory
from tests.framework import ram
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.functional.traps.safety import run_state
from tests.functional.traps.test_trap_states import wait_run_state

from snaptree.memory.pages import PAGE


def damage(vm: TestVM) -> int:
    """Flip a bit in each page of the store that is not zero; return how many there are."""
    count = 0
    for path in (vm.home / "vms" / vm.name / "pages").glob("*.pages"):
        pages = np.memmap(path, np.uint8, "r+", PAGE, (int(path.stem.partition("-")[2], 16), PAGE))
        there = np.flatnonzero(pages.any(axis=1))
        pages[there, 0] ^= 1
        pages.flush()
        count += len(there)
    return count


def refused(client: QMPClient) -> list[str]:
    """Try to load; return the reasons against it."""
    with pytest.raises(QMPError) as failed:
        client.execute("snapshot-load", {"name": "base", "keep": False})
    return [reason["code"] for reason in failed.value.reply["error"]["reasons"]]


def test_a_damaged_page_that_only_the_pause_shows_to_be_needed_refuses_the_load_with_nothing_touched(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    vm.run()
    vm.wait_states(2)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "base"})
        vm.wait_states(2, vm.serial_end())
        assert damage(vm)
        qemu = client.execute("query-vm")["qemu_pid"]
        client.execute("stop")
        before = ram.digests(qemu), [disk.read_bytes() for disk in vm.disks]
        assert refused(client) == ["pages-damaged"]
        assert (ram.digests(qemu), [disk.read_bytes() for disk in vm.disks]) == before
        assert run_state(client) == "paused"
        client.execute("cont")
        assert refused(client) == ["pages-damaged"]
        assert run_state(client) == "running"
        assert client.execute("query-snapshot-history")[-1]["result"].startswith("failed: base cannot be loaded now")
    vm.wait_states(2, vm.serial_end())
    vm.assert_guest_ok()


def test_a_vm_that_a_load_would_reset_first_is_not_reset_where_a_page_is_damaged(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.run("-no-shutdown", "-no-reboot")  # with both, a reset is a shutdown that QEMU outlives
    vm.wait_states(2)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "base"})
        vm.wait_states(2, vm.serial_end())
        assert damage(vm)
        client.execute("system_reset")
        wait_run_state(client, "shutdown")
        before = ram.digests(client.execute("query-vm")["qemu_pid"])
        assert refused(client) == ["pages-damaged"]
        assert run_state(client) == "shutdown"
        assert ram.digests(client.execute("query-vm")["qemu_pid"]) == before
