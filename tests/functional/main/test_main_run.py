"""``run``: what it refuses and what it says then, and how a VM ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.main.terminal import Started, terminal
from tests.functional.main.untouched import everything, fails, fails_json, untouched
from tests.functional.traps.safety import bare, entries, run_state, under_care


def assert_nothing_is_there(vm: TestVM) -> None:
    """Assert that no VM exists, and that no process is left."""
    assert vm.cli_json("vms") == []
    assert not (vm.home / "vms" / vm.name).exists()
    assert processes.marked(str(vm.root)) == []


def in_images(vm: TestVM) -> list[set[str]]:
    """Return the tags in the images, as qemu-img lists them, of a VM that doesn't run."""
    found = []
    for disk in vm.disks:
        info = json.loads(vm.tool("qemu-img", "info", "--output=json", str(disk)).stdout)
        found.append({snapshot["name"] for snapshot in info.get("snapshots", [])})
    return found


@pytest.mark.parametrize("detach", [["--detach"], []], ids=["detached", "in-the-foreground"])
def test_a_vm_that_could_not_start_says_why_and_does_not_exist(vm_factory: VMFactory, detach: list[str]) -> None:
    vm = vm_factory()
    run = ["run", *detach, vm.name, "--"]
    assert '"qemu-nonesuch": No such file or directory' in fails(vm, *run, "qemu-nonesuch", "-m", "64", code=1)
    assert_nothing_is_there(vm)
    assert "-nonesuch: invalid option" in fails(vm, *run, *bare(vm, "-nonesuch"), code=1)
    assert_nothing_is_there(vm)
    drive = f"file={vm.root}/none.qcow2,if=virtio"
    assert "none.qcow2': No such file" in fails(vm, *run, *bare(vm, "-drive", drive), code=1)
    assert_nothing_is_there(vm)
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))


def test_a_start_that_fails_leaves_a_known_vm_as_it_was(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    run = ["run", "--detach", vm.name, "--"]
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
    before, listed = everything(vm), vm.cli("list", vm.name, "--json").stdout
    error = fails_json(vm, *run, *bare(vm, "-nonesuch"), code=1)
    assert error["code"] == "qemu-start-failed"
    assert "-nonesuch: invalid option" in error["message"]
    assert fails_json(vm, *run, "qemu-nonesuch", code=1)["code"] == "qemu-start-failed"
    assert everything(vm) == before
    assert vm.cli("list", vm.name, "--json").stdout == listed
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-load", {"name": "s", "keep": False})


def test_a_vm_that_runs_is_not_run_twice(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client, untouched(vm, client):
        before = processes.marked(str(vm.root))
        assert "runs already" in fails(vm, "run", "--detach", vm.name, "--", *bare(vm), code=4)
        assert fails_json(vm, "run", vm.name, "--", *bare(vm), code=4)["code"] == "vm-runs"
        assert processes.marked(str(vm.root)) == before
    with under_care(vm, bare(vm)):
        pass


def test_a_vm_with_other_disks_is_refused_and_the_old_one_stays(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "s"})
    before = everything(vm)
    third = ("-drive", f"file={vm.new_image('c')},format=qcow2,if=virtio")
    said = fails(vm, "run", "--detach", vm.name, "--", *bare(vm, *third), code=4)
    assert "other disks" in said
    assert "c.qcow2" in said
    assert fails_json(vm, "run", "--detach", vm.name, "--", *bare(vm, disks="none"), code=4)["code"] == "other-disks"
    assert processes.marked(str(vm.root)) == []
    (vm.root / "c.qcow2").unlink()
    assert everything(vm) == before
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-load", {"name": "s", "keep": False})
        assert run_state(client) == "running"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-loadvm", "s"], "loadvm"),
        (["-snapshot"], "writes-discarded"),
        (["-drive", "file=none.qcow2,snapshot=on"], "writes-discarded"),
        (["-daemonize"], "daemonize"),
        (["-preconfig"], "preconfig"),
        (["-version"], "prints-and-ends"),
        (["-serial", "stdio"], "stdio-detached"),
        (["-monitor", "stdio"], "stdio-detached"),
        (["-nographic"], "stdio-detached"),
        (["-chardev", "stdio,id=s"], "stdio-detached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.qemu("10")  # it is refused before any QEMU is started
def test_an_option_that_would_go_around_us_is_refused_by_name(
    vm_factory: VMFactory, words: list[str], code: str
) -> None:
    vm = vm_factory()
    argv = [word for word in bare(vm) if word != "-nodefaults"]
    said = fails(vm, "run", "--detach", vm.name, "--", *argv, *words, code=4)
    assert words[0] in said
    error = fails_json(vm, "run", "--detach", vm.name, "--", *argv, *words, code=4)
    assert [reason["code"] for reason in error["reasons"]] == [code]
    assert_nothing_is_there(vm)


@pytest.mark.qemu("10")
def test_a_run_without_a_command_line_is_a_matter_of_usage(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    assert f"snaptree run {vm.name} -- qemu-system-x86_64" in fails(vm, "run", "--detach", vm.name, code=2)
    fails(vm, "run", vm.name, "--", code=2)
    assert_nothing_is_there(vm)


def test_a_vm_that_waits_for_an_incoming_migration_runs_and_says_why_it_cannot_be_snapshotted(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, "-incoming", "defer")), vm.qmp() as client:
        assert run_state(client) == "inmigrate"
        (reason,) = vm.cli_json("status", vm.name)["reasons"]
        assert reason["code"] == "run-state"
        assert fails_json(vm, "create", vm.name, "s", code=4)["code"] == "not-ready"


def test_a_command_line_runs_as_it_is_in_the_users_directory(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    monitor = vm.root / "monitor.sock"
    argv = ["qemu-system-x86_64", "-machine", "pc", "-machine", "accel=tcg", "-m", "64", "-display", "none"]
    argv += ["-drive", "file=a.qcow2,if=virtio", "b.qcow2", "-monitor", f"unix:{monitor},server=on,wait=off"]
    vm.cli("run", "--detach", vm.name, "--", *argv)
    done = vm.cli_json("create", vm.name, "s")
    assert {Path(device["file"]) for device in done["devices"]} == set(vm.disks)
    assert vm.tool("sh", "-c", f"echo info status | socat -t 5 - UNIX-CONNECT:{monitor}").stdout.count("running") == 1
    command = json.loads((vm.home / "vms" / vm.name / "command.json").read_text())
    assert (command["argv"], command["cwd"]) == (argv, str(vm.root))


def test_a_shells_substitution_of_a_detached_run_returns(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    words = " ".join(f"'{word}'" for word in bare(vm))
    done = vm.tool("sh", "-c", f'x=$({sys.executable} -m snaptree run --detach {vm.name} -- {words} 2>&1); echo "[$x]"')
    socket = vm.runtime / "snaptree" / vm.name / "qmp.sock"
    assert done.stdout == f"[{vm.name} is running, served at unix:{socket}]\n"
    assert run_state(vm.qmp()) == "running"


def test_stop_returns_when_qemu_is_gone_and_its_images_are_free(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))
    with vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
    vm.cli("stop", "--discard", vm.name)
    assert processes.marked(str(vm.root)) == []
    assert [len(tags) for tags in in_images(vm)] == [1, 1]
    for disk in vm.disks:
        vm.tool("qemu-img", "check", "-q", str(disk))
    assert contents(vm) == [1, 1]
    assert vm.cli_json("vms") == [
        {"name": vm.name, "state": "stopped", "qmp": None, "qemu_pid": None, "supervisor_pid": None}
    ]


def test_quit_by_a_monitor_of_the_users_own_ends_the_supervisor_too(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    path = vm.root / "own.sock"
    run = Started(vm, "run", vm.name, "--", *bare(vm, "-qmp", f"unix:{path},server=on,wait=off"))
    with vm.qmp(), QMPClient(path) as own:
        own.execute("quit")
    assert run.wait()[0] == 0
    assert vm.cli_json("vms")[0]["state"] == "stopped"


@pytest.mark.parametrize("snapshots", [False, True])
def test_a_vm_that_is_forgotten_leaves_its_disks_and_where_asked_no_snapshots(
    vm_factory: VMFactory, snapshots: bool
) -> None:
    vm = vm_factory()
    vm.tool("qemu-img", "snapshot", "-c", "foreign", str(vm.disks[0]))
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for pattern, name in enumerate(["one", "two"], 1):
            write(client, pattern)
            client.execute("snapshot-create", {"name": name})
        with untouched(vm, client):
            assert "runs" in fails(vm, "forget", vm.name, *["--snapshots"] * snapshots, code=4)
        ours = {tag for found in entries(client).values() for _, tag in found} - {"foreign"}
    vm.cli("forget", vm.name, *["--snapshots"] * snapshots)
    assert_nothing_is_there(vm)
    assert in_images(vm) == ([{"foreign"}, set()] if snapshots else [{"foreign", *ours}, ours])
    assert contents(vm) == [2, 2]
    assert fails_json(vm, "list", vm.name, code=3)["code"] == "no-such-vm"
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert client.execute("query-snapshots") == []
        client.execute("snapshot-create", {"name": "one"})


@pytest.mark.parametrize("how", ["ctrl-c", "SIGINT", "SIGTERM", "SIGHUP"])
def test_the_end_of_a_run_in_the_foreground_ends_qemu_and_supervisor_cleanly(vm_factory: VMFactory, how: str) -> None:
    vm = vm_factory()
    with terminal(vm, "run", vm.name, "--", *bare(vm)) as run:
        run.wait_for("dev is running, served at unix:")
        with vm.qmp() as client:
            write(client, 1)
            client.execute("snapshot-create", {"name": "s"})
            write(client, 2)
        if how == "ctrl-c":
            run.type("\x03")
        else:
            os.kill(run.pid, signal.Signals[how])
        assert run.wait() == 0
        assert "QEMU has ended." in run.said()
        assert run.settings() == run.before
    assert processes.marked(str(vm.root)) == []
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    assert [len(tags) for tags in in_images(vm)] == [1, 1]
    assert contents(vm) == [2, 2]


def test_qemu_keeps_the_terminal_of_a_run_in_the_foreground(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    argv = [word for word in vm.qemu_args() if word != "chardev:serial-log"]
    argv[argv.index("-serial") + 1 : argv.index("-serial") + 1] = ["stdio"]
    with terminal(vm, "run", vm.name, "--", *argv) as run:
        run.wait_for("STATE OK ram=2 a=2 b=2")
        vm.cli("create", vm.name, "s")
        run.wait_for("STATE OK ram=5 a=5 b=5")
        vm.cli("stop", "--discard", vm.name)
        assert run.wait() == 0
        assert run.settings() == run.before


def test_the_human_monitor_at_the_terminal_works_and_ctrl_c_is_the_guests_with_mon_stdio(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with terminal(vm, "run", vm.name, "--", *bare(vm, "-serial", "mon:stdio")) as run:
        run.wait_for("dev is running, served at unix:")
        run.type("\x03\x01c")  # Ctrl-C is the guest's; Ctrl-A c is the monitor's
        run.wait_for("(qemu)")
        run.type("info status\n")
        run.wait_for("VM status: running")
        run.type("quit\n")
        assert run.wait() == 0
        assert run.settings() == run.before
    assert vm.cli_json("vms")[0]["state"] == "stopped"


def test_a_qemu_that_dies_is_an_error_of_the_foreground_run_that_says_how(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    run = Started(vm, "run", vm.name, "--", *bare(vm))
    with vm.qmp() as client:
        pid = client.execute("query-vm")["qemu_pid"]
        os.kill(pid, signal.SIGKILL)
    code, _, said = run.wait()
    assert code == 1
    assert "was ended by SIGKILL" in said
    assert vm.cli_json("vms")[0]["state"] == "stopped"
