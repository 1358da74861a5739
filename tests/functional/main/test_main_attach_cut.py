"""A QMP connection that is cut is not the end of QEMU: it runs on unsupervised, and ``attach VM`` finds it again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.plain import PlainQEMU
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.untouched import fails
from tests.functional.traps.safety import bare, plain_qemu, run_state

PORT = 21000
"""The first of those that the tests' processes take, each one of its own."""


@contextmanager
def between(vm: TestVM, listens: str, ends: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a proxy in front of QEMU's QMP socket, in a process group of its own."""
    proxy = subprocess.Popen(
        ["socat", f"{listens},fork", f"UNIX-CONNECT:{ends}"], env=vm.env, cwd=vm.root, start_new_session=True
    )
    try:
        yield proxy
    finally:
        cut(proxy)


def cut(proxy: subprocess.Popen[bytes]) -> None:
    """End a proxy with all its connections."""
    if proxy.poll() is None:
        os.killpg(proxy.pid, signal.SIGKILL)
    proxy.wait()


def attach(vm: TestVM, *words: str) -> None:
    """Attach, as soon as the proxy listens."""
    wait_until(lambda: vm.cli("attach", "--detach", vm.name, *words, check=False).returncode == 0, "the proxy")


def state(vm: TestVM) -> str:
    return str(vm.cli_json("vms")[0]["state"])


@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_a_qemu_whose_proxy_is_killed_is_unsupervised_and_attach_finds_it_again(
    vm_factory: VMFactory, over: str
) -> None:
    vm = vm_factory()
    port = PORT + os.getpid() % 9000
    path = vm.root / "proxy.sock"
    listens = f"UNIX-LISTEN:{path},unlink-early" if over == "unix" else f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr"
    address = f"unix:{path}" if over == "unix" else f"tcp:127.0.0.1:{port}"
    with plain_qemu(vm, bare(vm)) as plain:
        with between(vm, listens, plain.attach_socket) as proxy:
            attach(vm, "--qmp", address)
            vm.cli("create", vm.name, "s")
            cut(proxy)
            wait_until(lambda: state(vm) == "unsupervised", "the supervisor's end")
        assert "QEMU runs on" in (vm.home / "vms" / vm.name / "supervisor.log").read_text()
        assert run_state(plain.qmp) == "running"
        # Nothing else may touch the images, also where nobody answers just now.
        assert f"snaptree attach {vm.name}" in fails(vm, "create", vm.name, "t", code=4)
        assert "Nobody answers" in fails(vm, "attach", "--detach", vm.name, code=1)
        assert state(vm) == "unsupervised"
        with between(vm, listens, plain.attach_socket):
            attach(vm)
            vm.cli("create", vm.name, "t")
            assert [found["name"] for found in vm.cli_json("list", vm.name)] == ["s", "t"]
            vm.cli("stop", "--discard", vm.name)
        assert state(vm) == "stopped"


def test_a_qemu_that_dies_behind_a_proxy_is_known_to_have_ended(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    path = vm.root / "proxy.sock"
    with plain_qemu(vm, bare(vm)) as plain, between(vm, f"UNIX-LISTEN:{path}", plain.attach_socket):
        attach(vm, "--qmp", str(path))
        plain.kill()
        wait_until(lambda: state(vm) == "stopped", "the supervisor's end")
        vm.cli("create", vm.name, "offline")


def test_attach_finds_the_address_of_a_vm_that_was_attached_before(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    first = PlainQEMU(bare(vm), vm.env, vm.root, 7)
    try:
        vm.cli("attach", "--detach", vm.name, "--qmp", str(first.attach_socket))
        vm.cli("stop", "--discard", vm.name)
        first.wait()
    finally:
        first.kill()
    assert state(vm) == "stopped"
    assert str(first.attach_socket) in fails(vm, "attach", "--detach", vm.name, code=1)
    again = PlainQEMU(bare(vm), vm.env, vm.root, 7)
    try:
        assert vm.cli_json("attach", "--detach", vm.name)["qemu_pid"] == again.pid
    finally:
        again.kill()
