"""QEMU that is blocked for long, jobs that it keeps, and other monitors that don't wait."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPError
from tests.framework.waiting import wait_until
from tests.functional.traps.safety import (
    attached,
    bare,
    entries,
    nothing,
    plain_qemu,
    run_state,
    trace_stop,
    under_care,
    wait_stopped,
    with_meanwhile,
)


def test_lists_are_answered_while_qemu_is_blocked_in_a_save_and_the_rest_waits_its_turn(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    trace_stop(vm, "create.paused")
    with under_care(vm, bare(vm)), vm.qmp() as client, vm.qmp() as early, vm.qmp() as patient:
        with_meanwhile(client, "snapshot-create", {"name": "s"}, nothing)
        found = client.execute("query-vm")
        saving = client.send("snapshot-create", {"name": "t"})
        wait_stopped(found["supervisor_pid"])
        os.kill(found["qemu_pid"], signal.SIGSTOP)
        os.kill(found["supervisor_pid"], signal.SIGCONT)

        asking = patient.send("query-status")
        with vm.qmp() as late:
            for other in (early, late):
                assert other.execute("query-vm")["busy"] == "create"
                (s,) = other.execute("query-snapshots")
                assert (s["name"], s["consistent"]) == ("s", True)
                assert other.execute("query-snapshot", {"name": "s"})["current"]
                assert [entry["name"] for entry in other.execute("query-snapshot-history")] == ["s"]
                assert other.execute("query-current-snapshot")["name"] == "s"
                assert "all" in other.hmp("info snapshots")
        assert [listed["name"] for listed in vm.cli_json("tree", vm.name)] == ["s"]
        refused = vm.cli("create", "--no-wait", vm.name, "u", check=False)
        assert refused.returncode == 4
        assert "busy with a create" in refused.stderr

        os.kill(found["qemu_pid"], signal.SIGCONT)
        assert client.reply("snapshot-create", saving) == {}
        # Asked in our pause, and answered after it.
        assert patient.reply("query-status", asking)["status"] == "running"
        assert [listed["name"] for listed in early.execute("query-snapshots")] == ["s", "t"]


def test_a_job_id_of_plain_qemu_stays_taken_and_its_error_is_only_in_its_list(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm, disks="blockdev")) as plain:
        job = {"job-id": "load", "tag": "typo", "vmstate": "disk-a", "devices": ["disk-a"]}
        since = len(plain.qmp.events)
        assert plain.qmp.execute("snapshot-load", job) == {}
        plain.qmp.wait_event("JOB_STATUS_CHANGE", since, id="load", status="concluded")
        with pytest.raises(QMPError, match="already in use"):
            plain.qmp.execute("snapshot-load", job)
        assert "does not exist" in plain.qmp.execute("query-jobs")[0]["error"]


def test_a_job_that_somebody_left_does_not_matter_and_stays_theirs(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with attached(vm, bare(vm, disks="blockdev")) as monitor, vm.qmp() as client:
        since = len(monitor.events)
        job = {"job-id": "theirs", "tag": "typo", "devices": ["disk-a"]}
        monitor.execute("snapshot-delete", job)
        monitor.wait_event("JOB_STATUS_CHANGE", since, id="theirs", status="concluded")
        client.execute("snapshot-create", {"name": "s"})
        client.execute("snapshot-load", {"name": "s", "keep": False})
        client.execute("snapshot-delete", {"name": "s"})
        assert [left["id"] for left in monitor.execute("query-jobs")] == ["theirs"]


def test_a_new_supervisor_takes_up_the_job_of_a_dead_one_and_dismisses_it(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.env["SNAPTREE_TRACE"] = "load.loaded=kill"
    with under_care(vm, bare(vm)) as own:
        vm.cli("create", vm.name, "s")
        vm.cli("create", vm.name, "t")
        assert vm.cli("load", "--discard", vm.name, "s", check=False).returncode == 1
        assert [job["status"] for job in own.execute("query-jobs")] == ["concluded"]
        assert run_state(own) == "paused"
        del vm.env["SNAPTREE_TRACE"]
        vm.cli("attach", "--detach", vm.name)
        assert own.execute("query-jobs") == []
        assert run_state(own) == "running"
        assert vm.cli_json("status", vm.name)["current"]["name"] == "s"


def test_a_create_fails_whole_when_another_monitor_continues_the_vm_in_its_pause(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    trace_stop(vm, "create.paused")
    with under_care(vm, vm.qemu_args()) as own, vm.qmp() as client:
        vm.wait_states(3)
        with pytest.raises(QMPError, match="Another monitor of this QEMU continued the VM"):
            with_meanwhile(client, "snapshot-create", {"name": "s"}, lambda: own.execute("cont"))
        assert run_state(own) == "running"
        assert client.execute("query-snapshots", {"foreign": True}) == []
        assert set(map(len, entries(own).values())) == {0}
        assert own.execute("query-jobs") == []
        with_meanwhile(client, "snapshot-create", {"name": "s"}, nothing)
        vm.wait_state_after(vm.states()[-1].ram + 2)
        since = vm.serial_end()
        client.execute("snapshot-load", {"name": "s", "keep": False})
        vm.wait_states(2, since)
        vm.assert_guest_ok()


def test_a_save_by_another_monitor_in_our_pause_harms_neither(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    trace_stop(vm, "create.paused")
    with under_care(vm, vm.qemu_args()) as own, vm.qmp() as client:
        vm.wait_states(3)
        with_meanwhile(client, "snapshot-create", {"name": "ours"}, lambda: own.hmp("savevm theirs"))
        found = client.execute("query-snapshots", {"foreign": True})
        assert {(s["name"], s["consistent"]) for s in found} == {("ours", True), ("theirs", True)}
        for load in (
            lambda: client.execute("snapshot-load", {"name": "ours", "keep": False}),
            lambda: own.hmp("loadvm theirs"),
        ):
            vm.wait_state_after(vm.states()[-1].ram + 2)
            since = vm.serial_end()
            assert not load()
            vm.wait_states(2, since)
            vm.assert_guest_ok()


@pytest.mark.parametrize("way", ["full", "pages"])
def test_a_load_is_whole_when_another_monitor_continues_the_vm_in_its_pause(vm_factory: VMFactory, way: str) -> None:
    vm = vm_factory()
    trace_stop(vm, "load.paused", "load.reverted")
    with under_care(vm, vm.qemu_args(), memory=way) as own, vm.qmp() as client:
        vm.wait_states(3)
        client.execute("snapshot-create", {"name": "s"})

        def go_on() -> None:
            own.execute("cont")
            vm.wait_state_after(vm.states()[-1].ram + 3)

        def run_a_while() -> None:
            if way == "full":
                vm.wait_states(3, vm.serial_end())  # QEMU has continued the VM, and the guest writes to its disks again

        assert with_meanwhile(client, "snapshot-load", {"name": "s", "keep": False}, go_on, run_a_while) == {}
        assert run_state(own) == "running"
        assert client.execute("query-current-snapshot")["name"] == "s"
        assert client.execute("query-snapshot-status", {"reasons": True})["reasons"] == []
        wait_until(lambda: any(one.ram > next.ram for one, next in pairwise(vm.states())), "the guest to go back")
        vm.assert_guest_ok()
