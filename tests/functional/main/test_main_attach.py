"""``attach``: a QEMU that somebody else started, or whose supervisor has died."""

from __future__ import annotations

import os
import signal

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import create, go_on, load, load_running
from tests.functional.main.patterns import contents, write
from tests.functional.main.terminal import terminal
from tests.functional.main.untouched import fails, fails_json
from tests.functional.traps.safety import attached, bare, plain_qemu, run_state


def kill_supervisor(vm: TestVM) -> int:
    """End the supervisor by SIGKILL; return the pid of QEMU, which runs on."""
    with vm.qmp() as client:
        known = client.execute("query-vm")
    os.kill(known["supervisor_pid"], signal.SIGKILL)
    wait_until(lambda: vm.cli_json("vms")[0]["state"] == "unsupervised", "the supervisor's end")
    return int(known["qemu_pid"])


def test_a_guest_that_somebody_else_started_goes_back_and_forth(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=20)
    plain = vm.start_plain_qemu()
    vm.wait_states(3)
    done = vm.cli_json("attach", "--detach", vm.name, "--qmp", str(plain.attach_socket))
    assert (done["state"], done["qemu_pid"]) == ("running", plain.pid)
    one = create(vm, "one")
    go_on(vm)
    load_running(vm, "one", one)
    vm.assert_guest_ok()
    vm.cli("stop", "--discard", vm.name)
    assert plain.wait() == 0


@pytest.mark.parametrize("how", ["ctrl-c", "SIGINT", "SIGTERM"])
def test_the_end_of_an_attach_leaves_qemu_running(vm_factory: VMFactory, how: str) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        with terminal(vm, "attach", vm.name, "--qmp", f"unix:{plain.attach_socket}") as attach:
            attach.wait_for("dev is running, served at unix:")
            vm.cli("create", vm.name, "s")
            if how == "ctrl-c":
                attach.type("\x03")
            else:
                os.kill(attach.pid, signal.Signals[how])
            assert attach.wait() == 0
            assert f"QEMU (pid {plain.pid}) runs on" in attach.said()
        assert run_state(plain.qmp) == "running"
        assert vm.cli_json("vms")[0]["state"] == "unsupervised"
        vm.cli("attach", "--detach", vm.name)
        vm.cli("load", "--discard", vm.name, "s")


def test_qemu_survives_its_supervisor_and_is_taken_up_again_with_nothing_lost(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=20)
    vm.run()
    vm.wait_states(3)
    one = create(vm, "one", "-m", "first")
    listed = vm.cli("list", vm.name, "--json").stdout
    pid = kill_supervisor(vm)
    assert vm.cli("list", vm.name, "--json").stdout == listed
    for command in (["create", vm.name, "two"], ["load", vm.name, "one"], ["stop", vm.name]):
        assert f"snaptree attach {vm.name}" in fails(vm, *command, code=4)
    assert fails_json(vm, "run", "--detach", vm.name, "--", *vm.qemu_args(), code=4)["code"] == "vm-runs"
    assert "snaptree attach" in vm.cli_json("status", vm.name)["reasons"][0]["remedy"]
    go_on(vm)

    assert vm.cli_json("attach", "--detach", vm.name)["qemu_pid"] == pid
    assert vm.cli("list", vm.name, "--json").stdout == listed
    two = create(vm, "two")
    load_running(vm, "one", one)
    go_on(vm)
    assert vm.cli_json("show", vm.name, "two")["parent_name"] == "one"
    kill_supervisor(vm)
    vm.cli("attach", "--detach", vm.name)
    load(vm, "two", two)
    vm.assert_guest_ok()
    vm.cli("stop", "--discard", vm.name)
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    assert processes.marked(str(vm.root)) == []


def test_a_socket_that_another_client_holds_is_named_as_such(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        held = plain.argv[plain.argv.index("-qmp") + 1].partition(",")[0]
        said = fails(vm, "attach", "--detach", vm.name, "--qmp", held, code=1)
        assert "another client holds it" in said
        assert "a second -qmp socket" in said
        assert vm.cli_json("vms") == []
        assert run_state(plain.qmp) == "running"


def test_an_attach_that_cannot_be_changes_nothing_and_says_why(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    nobody = vm.root / "nobody.sock"
    assert "Nobody answers" in fails(vm, "attach", "--detach", vm.name, "--qmp", f"unix:{nobody}", code=1)
    assert "--qmp unix:PATH" in fails(vm, "attach", "--detach", vm.name, code=4)
    assert vm.cli_json("vms") == []
    with attached(vm, bare(vm)):
        assert fails_json(vm, "attach", "--detach", vm.name, code=4)["code"] == "vm-runs"


def test_a_qemu_with_other_disks_is_not_taken_for_a_known_vm_and_runs_on(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    # In full: it is loaded below by a QEMU that somebody else started, with RAM of its own.
    vm.cli("run", "--detach", "--memory", "full", vm.name, "--", *bare(vm))
    with vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
    vm.cli("stop", "--discard", vm.name)
    third = ("-drive", f"file={vm.new_image('c')},format=qcow2,if=virtio")
    with plain_qemu(vm, bare(vm, *third, disks="none")) as plain:
        error = fails_json(vm, "attach", "--detach", vm.name, "--qmp", str(plain.attach_socket), code=4)
        assert error["code"] == "other-disks"
        assert run_state(plain.qmp) == "running"
        # The socket is free for the right name.
        vm.cli("attach", "--detach", "other", "--qmp", str(plain.attach_socket))
        vm.cli("create", "other", "s")
    with attached(vm, bare(vm)):
        vm.cli("load", "--discard", vm.name, "s")
        assert contents(vm, vm.qmp()) == [1, 1]
