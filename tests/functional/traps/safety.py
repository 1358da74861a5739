"""What "the user is safe" means, and QEMUs without any guest to see it on.  Not for: what a guest's content must be.

In a QEMU without a guest nobody writes to a disk, so its images must be the same byte for byte after a refusal, while
the VM runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import DisksBy, PlainQEMU, TestVM
from tests.framework.waiting import wait_until

MIB = 1024**2

Code = tuple[str, str | None]
"""A reason's code and its device."""

_numbers = itertools.count(100)


def bare(
    vm: TestVM,
    *extra: str,
    disks: DisksBy = "drive",
    memory_mib: int = 64,
    machine: str = "pc",
    cpu: str = "qemu64",
) -> list[str]:
    """Return the command line of a QEMU whose firmware finds nothing to start.

    :param disks: as in the framework: ``drive`` makes devices virtio0, virtio1; ``blockdev`` nodes disk-a, disk-b on
        devices virtio-a, virtio-b.
    """
    argv = ["qemu-system-x86_64", "-machine", machine, "-cpu", cpu, "-m", str(memory_mib)]
    argv += ["-display", "none", "-nodefaults"]
    for letter, path in zip("abcd", vm.disks, strict=False):
        if disks == "drive":
            argv += ["-drive", f"file={path},format=qcow2,if=virtio"]
        if disks == "blockdev":
            argv += [*node(f"disk-{letter}", path), "-device", f"virtio-blk-pci,drive=disk-{letter},id=virtio-{letter}"]
    return [*argv, *extra]


def node(name: str, path: Path, driver: str = "qcow2") -> list[str]:
    """Return the arguments for a block node that nothing uses yet."""
    return ["-blockdev", f"{driver},node-name={name},file.driver=file,file.filename={path}"]


def idle_flash(vm: TestVM, *, start: bytes = b"\xfa\xf4\xeb\xfd") -> Path:
    """Make a raw image of 64 KiB for flash memory or ``-bios``.

    :param start: the code at the reset vector, 16 bytes at most; without it the CPU sleeps for ever.
    """
    path = vm.root / "firmware.bin"
    path.write_bytes(bytes(0xFFF0) + start.ljust(16, b"\0"))
    return path


@contextmanager
def plain_qemu(vm: TestVM, argv: list[str]) -> Iterator[PlainQEMU]:
    """Run a command line of :func:`bare` without snaptree."""
    plain = PlainQEMU([*argv], vm.env, vm.root, next(_numbers))
    try:
        yield plain
    finally:
        plain.kill()


@contextmanager
def attached(vm: TestVM, argv: list[str]) -> Iterator[QMPClient]:
    """Run a command line of :func:`bare`, attach snaptree to it, yield another monitor, and stop the VM afterwards."""
    with plain_qemu(vm, argv) as plain:
        vm.cli("attach", "--detach", vm.name, "--qmp", f"unix:{plain.attach_socket}")
        yield plain.qmp
        vm.cli("stop", "--discard", vm.name)


@contextmanager
def under_care(vm: TestVM, argv: list[str], *, memory: str = "auto") -> Iterator[QMPClient]:
    """``snaptree run`` a command line, with a monitor of the user's own, which is yielded; stop the VM afterwards.

    :param memory: in full a load without a word keeps nothing of what was before.
    """
    path = vm.root / f"own-{next(_numbers)}.sock"
    vm.know_qemu()
    vm.cli("run", "--detach", "--memory", memory, vm.name, "--", *argv, "-qmp", f"unix:{path},server=on,wait=off")
    with QMPClient(path) as own:
        yield own
        vm.cli("stop", "--discard", vm.name)


def run_job(client: QMPClient, command: str, **arguments: Any) -> str:
    """Run a job of QEMU's own, as a user would; return its error, empty where it succeeded."""
    job = f"job-{next(_numbers)}"
    since = len(client.events)
    client.execute(command, {"job-id": job, **arguments})
    client.wait_event("JOB_STATUS_CHANGE", since, id=job, status="concluded")
    error = next(found.get("error", "") for found in client.execute("query-jobs") if found["id"] == job)
    client.execute("job-dismiss", {"id": job})
    assert isinstance(error, str)
    return error


def run_state(client: QMPClient) -> str:
    """Return QEMU's word for the state that the VM is in."""
    return str(client.execute("query-status")["status"])


def entries(client: QMPClient) -> dict[str, list[tuple[str, str]]]:
    """Return the snapshots in each qcow2 node, as QEMU lists them: its own number and the tag."""
    return {
        found["node-name"]: [(entry["id"], entry["name"]) for entry in found["image"].get("snapshots", ())]
        for found in client.execute("query-named-block-nodes", {"flat": True})
        if found["drv"] == "qcow2"
    }


def fill(vm: TestVM, disk: Path, pattern: int) -> None:
    """Write a byte all over the first 64 KiB of a disk that no QEMU uses."""
    vm.tool("qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} 0 64k", str(disk))


def holds(vm: TestVM, disk: Path, pattern: int) -> bool:
    """Say whether the first 64 KiB of a disk hold that byte."""
    read = ("qemu-io", "-f", "qcow2", "-r", "-U", "-c", f"read -q -P {pattern} 0 64k", str(disk))
    return vm.tool(*read, check=False).returncode == 0


def trace_stop(vm: TestVM, *points: str) -> None:
    """Let every supervisor that the test starts from now on stop itself at these points of an operation."""
    vm.env["SNAPTREE_TRACE"] = ",".join(f"{point}=stop" for point in points)


def wait_stopped(pid: int) -> None:
    """Wait until a process is stopped by a signal."""
    wait_until(lambda: _state(pid) == "T", f"process {pid} to be stopped")


def nothing() -> None:
    """Do nothing at a point of ``trace_stop``."""


def with_meanwhile(
    client: QMPClient, command: str, arguments: Mapping[str, Any], *meanwhile: Callable[[], object]
) -> Any:
    """Run a command of snaptree's, and one ``meanwhile`` at each point of ``trace_stop``; return its answer.

    :raises QMPError: where it fails.
    """
    supervisor = client.execute("query-vm")["supervisor_pid"]
    number = client.send(command, arguments)
    for act in meanwhile:
        wait_stopped(supervisor)
        act()
        os.kill(supervisor, signal.SIGCONT)  # it goes on before this returns
    return client.reply(command, number)


def reasons(vm: TestVM) -> list[Code]:
    """Return why ``status`` says that the VM cannot be snapshotted now."""
    status = vm.cli_json("status", vm.name)
    assert status["ready"] == (status["reasons"] == [])
    return _codes(status["reasons"])


def refused(vm: TestVM, *command: str) -> list[Code]:
    """Run a create or load that must be refused, and return the reasons.

    :raises AssertionError: where the exit code is not 4, or anything whatever was changed: a byte of an image, the run
        state, the list, current, history; or the VM was stopped for a moment.
    """
    with vm.qmp() as client:
        # Lists show the devices as they were when QEMU was last asked, because they answer also while it is blocked.
        client.execute("query-snapshot-status")
        client.events.clear()  # QEMU's of what was done before
        before = _everything(vm, client)
        done = vm.cli(command[0], "--json", *command[1:], check=False)
        after = _everything(vm, client)
        assert done.returncode == 4, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "not-ready", error
        changed = {key: (before[key], after[key]) for key in before if after[key] != before[key]}
        assert changed == {}, changed
        assert client.events == []
        found = _codes(error["reasons"])
        if command[0] == "create":
            status = client.execute("query-snapshot-status", {"reasons": True})
            assert _codes(status["reasons"]) == found
            assert client.execute("query-snapshot-status") is False
    for reason in error["reasons"]:
        assert reason["message"].endswith("."), reason
        assert reason["remedy"].endswith("."), reason
    return found


def assert_can(vm: TestVM, name: str) -> dict[str, Any]:
    """Create a snapshot and load it, all devices and RAM; return it as it is listed.

    The VM must run afterwards exactly if it ran before.
    """
    with vm.qmp() as client:
        before = run_state(client)
        assert client.execute("query-snapshot-status", {"reasons": True})["reasons"] == []
        client.execute("snapshot-create", {"name": name})
        client.execute("snapshot-load", {"name": name, "keep": False})
        found = client.execute("query-snapshot", {"name": name})
        assert found["consistent"], found
        assert found["current"], found
        assert all(device["present"] for device in found["devices"]), found
        assert run_state(client) == before
        assert client.execute("query-jobs") == []
    assert isinstance(found, dict)
    return found


def refusal(client: QMPClient, command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error of a command of snaptree's that must fail."""
    try:
        answer = client.execute(command, arguments)
    except QMPError as error:
        found = error.reply["error"]
        assert isinstance(found, dict)
        return found
    raise AssertionError(f"{command} {arguments} did not fail: {answer}")


def image_bytes(vm: TestVM) -> dict[str, str]:
    """Return a digest of every image in the VM's folder."""
    images = sorted(path for path in vm.root.iterdir() if path.suffix in (".qcow2", ".raw"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in images}


def _state(pid: int) -> str:
    """Return the letter of proc(5) for a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _everything(vm: TestVM, client: QMPClient) -> dict[str, Any]:
    return {
        "run state": run_state(client),
        "snapshots": client.execute("query-snapshots", {"foreign": True}),
        "current": client.execute("query-current-snapshot"),
        "history": client.execute("query-snapshot-history"),
        "jobs": client.execute("query-jobs"),
        "images": image_bytes(vm),
    }


def _codes(found: list[dict[str, Any]]) -> list[Code]:
    return [(reason["code"], reason["device"]) for reason in found]
