"""A command on a stopped VM that is interrupted, killed, or not alone, while qemu-img works for it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.patterns import contents
from tests.functional.offline.stopped import assert_images_whole, current, names, set_disks, stopped_vm, tables, taken
from tests.functional.traps.safety import bare

pytestmark = pytest.mark.qemu("7.2")  # it is qemu-img alone that works here


@contextmanager
def slow_qemu_img(vm: TestVM) -> Iterator[Path]:
    """Let every ``qemu-img snapshot`` of ours wait as long as the file that is yielded is there; it is made anew."""
    folder, hold = vm.root / "slow", vm.root / "hold"
    folder.mkdir()
    script = folder / "qemu-img"
    script.write_text(
        f"""#!/bin/sh
touch {vm.root}/started
while [ -e {hold} ]; do sleep 0.01; done
exec {vm.qemu.img} "$@"
"""
    )
    script.chmod(0o755)
    hold.touch()
    before = vm.env["PATH"]
    vm.env["PATH"] = f"{folder}:{before}"
    yield hold
    hold.unlink(missing_ok=True)
    vm.env["PATH"] = before


@contextmanager
def begun(vm: TestVM, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and wait until its qemu-img has started."""
    started = vm.root / "started"
    process = subprocess.Popen(
        [sys.executable, "-m", "snaptree", *command],
        env=vm.env,
        cwd=vm.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            wait_until(started.exists, "qemu-img to be started")
            yield process
    finally:
        process.kill()


def test_ctrl_c_ends_a_command_when_its_work_is_whole(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    with slow_qemu_img(vm) as hold, begun(vm, "load", vm.name, "a") as process:
        process.send_signal(signal.SIGINT)
        hold.unlink()
        assert process.wait() == 130
    assert contents(vm) == [1, 1]
    assert current(vm) == "a"


def test_a_killed_commands_qemu_img_keeps_the_images_until_it_has_ended(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    with slow_qemu_img(vm) as hold:
        with begun(vm, "create", vm.name, "b") as process:
            process.kill()
        refused = vm.cli("create", "--no-wait", vm.name, "c", check=False)
        assert (refused.returncode, "Another command" in refused.stderr) == (4, True)
        run = vm.cli("run", "--detach", vm.name, "--", *bare(vm), check=False)
        assert (run.returncode, "Another command" in run.stderr) == (4, True)
        theirs = vm.tool("qemu-io", "-f", "qcow2", "-c", "write -q 0 64k", str(vm.disks[1]), check=False)
        assert (theirs.returncode, "lock" in theirs.stderr) == (1, True)
        hold.unlink()
        vm.cli("create", vm.name, "c")  # waits for the killed one's qemu-img, then takes b off again
    assert names(vm, "--foreign") == ["a", "c"]
    assert [len(table) for table in tables(vm)] == [2, 2]
    assert_images_whole(vm)


def test_a_second_command_waits_for_the_first_or_is_refused(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    with slow_qemu_img(vm) as hold, begun(vm, "create", vm.name, "a") as first:
        refused = vm.cli("create", "--no-wait", vm.name, "b", check=False)
        assert refused.returncode == 4
        assert vm.cli_json("list", vm.name) == []  # whoever only reads waits for nobody
        assert vm.cli_json("vms")[0]["state"] == "stopped"
        with begun(vm, "create", vm.name, "b") as second:
            hold.unlink()
            assert (first.wait(), second.wait()) == (0, 0)
    assert names(vm) == ["a", "b"]


def test_a_qemu_img_that_fails_on_the_second_disk_leaves_nothing_on_the_first(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    before = tables(vm)
    with failing_qemu_img(vm, "-c", vm.disks[1]):
        done = vm.cli("create", vm.name, "b", check=False)
        assert (done.returncode, "disk full" in done.stderr) == (1, True)
    assert (tables(vm), names(vm), current(vm), contents(vm)) == (before, ["a"], "a", [2, 2])
    assert "failed" in vm.cli_json("log", vm.name)[-1]["result"]


def test_a_load_that_fails_on_the_second_disk_is_said_to_be_half_until_the_next_one(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    with failing_qemu_img(vm, "-a", vm.disks[1]):
        done = vm.cli("load", "--discard", vm.name, "a", check=False)
        assert (done.returncode, "half way" in done.stderr) == (1, True)
        assert "virtio0 at a, virtio1 not" in done.stderr
    assert contents(vm) == [1, 2]
    refused = vm.cli("create", vm.name, "b", check=False)
    assert (refused.returncode, "half way" in refused.stderr) == (4, True)
    vm.cli("load", "--discard", vm.name, "a")
    assert contents(vm) == [1, 1]
    vm.cli("create", vm.name, "b")


@contextmanager
def failing_qemu_img(vm: TestVM, flag: str, disk: Path) -> Iterator[None]:
    """Let ``qemu-img snapshot FLAG`` fail on one disk."""
    folder = vm.root / "failing"
    folder.mkdir()
    script = folder / "qemu-img"
    script.write_text(
        f"""#!/bin/sh
case "$*" in *" {flag} "*{disk.name}) echo "qemu-img: disk full" >&2; exit 1;; esac
exec {vm.qemu.img} "$@"
"""
    )
    script.chmod(0o755)
    before = vm.env["PATH"]
    vm.env["PATH"] = f"{folder}:{before}"
    yield
    vm.env["PATH"] = before
