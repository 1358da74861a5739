"""Real qemu-img, and a real QEMU without a guest, for the tests of this folder."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120


def run_qemu_img(*args: str | Path) -> str:
    """Run qemu-img; return what it prints."""
    done = subprocess.run(
        ["qemu-img", *map(str, args)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class QEMU:
    """A QEMU whose guest never runs (``-S``), and its QMP session."""

    def __init__(self, *args: str) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-S", "-accel", "tcg", "-nodefaults", "-display", "none"),
                    *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
                    *args,
                ],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
            )
        self.socket = ours
        self.lines = ours.makefile("r")
        self.jobs = 0
        assert "QMP" in self.receive()
        self.execute("qmp_capabilities")

    def receive(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line, f"QEMU ended: {self.process.wait(PATIENCE_S)}"
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a QMP command; underscores in the arguments' names become hyphens."""
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.socket.sendall(json.dumps({"execute": command, "arguments": members}).encode())
        while "event" in (message := self.receive()):
            pass
        assert "return" in message, message
        return message["return"]

    def run_job(self, command: str, **arguments: object) -> None:
        """Run a job, and wait until it has ended well."""
        self.jobs += 1
        job_id = f"job{self.jobs}"
        self.execute(command, job_id=job_id, **arguments)
        while True:
            (job,) = [job for job in self.execute("query-jobs") if job["id"] == job_id]
            if job["status"] == "concluded":
                break
            self.receive()  # the event of the job's next status
        self.execute("job-dismiss", id=job_id)
        assert "error" not in job, job

    def save(self, tag: str, *nodes: str) -> None:
        """Take a snapshot of all ``nodes``, the VM state in the first."""
        self.run_job("snapshot-save", tag=tag, vmstate=nodes[0], devices=nodes)

    def load(self, tag: str, *nodes: str) -> None:
        self.run_job("snapshot-load", tag=tag, vmstate=nodes[0], devices=nodes)

    def ignore_shared(self, state: bool) -> None:
        self.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": state}])

    def write(self, device: str, command: str) -> None:
        """Run a qemu-io command on a virtio-blk device, as its guest would write."""
        path = f"/machine/peripheral/{device}/virtio-backend"
        printed = self.execute("human-monitor-command", command_line=f'qemu-io -d {path} "{command}"')
        assert printed == "", printed

    def end(self) -> None:
        self.lines.close()
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)


def qcow2_disk(name: str, image: Path, options: str = "") -> tuple[str, ...]:
    """Return the arguments for a virtio disk: the node is ``name``, the device ``name`` with ``-dev``."""
    node = f"driver=qcow2,node-name={name},discard=unmap,file.driver=file,file.filename={image}{options}"
    return ("-blockdev", node, "-device", f"virtio-blk-pci,id={name}-dev,drive={name}")


@pytest.fixture(scope="session")
def qemu_img() -> Callable[..., str]:
    return run_qemu_img


@pytest.fixture(scope="session")
def disk() -> Callable[..., tuple[str, ...]]:
    return qcow2_disk


@pytest.fixture
def start_qemu() -> Iterator[Callable[..., QEMU]]:
    """Start QEMUs that end with the test."""
    started: list[QEMU] = []

    def start(*args: str) -> QEMU:
        started.append(QEMU(*args))
        return started[-1]

    yield start
    for qemu in started:
        qemu.end()
