"""VMs that are forked in tests: a command line that fits every copy, and one fork seen from outside.

Not for: what a test expects of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import processes, ram
from .guests import State, find_failure, find_trouble, parse_states
from .qmp import QMPClient
from .vm import TestVM
from .waiting import wait_until


def forkable(vm: TestVM, *extra: str, **options: Any) -> list[str]:
    """Return ``vm.qemu_args`` with a serial log that each copy has for itself."""
    options.setdefault("memory_mib", 64)
    return [word.replace(f"{vm.serial_log},append=on", "{dir}/serial.log") for word in vm.qemu_args(*extra, **options)]


class Branch:
    """A VM of a test's home, the source or a fork, by its name; nothing is started.

    :ivar home: the VM's own folder.
    """

    def __init__(self, vm: TestVM, name: str) -> None:
        self.vm = vm
        self.name = name
        self.home = vm.home / "vms" / name
        self.log = self.home / "files" / "serial.log"

    @classmethod
    def run(cls, vm: TestVM, *extra: str, options: tuple[str, ...] = (), **more: Any) -> Branch:
        """Run a source, and wait until its guest counts."""
        vm.cli("run", "--detach", *options, vm.name, "--", *forkable(vm, *extra, **more))
        branch = cls(vm, vm.name)
        branch.wait_states(3)
        return branch

    def fork(self, snapshot: str, *names: str) -> list[Branch]:
        """Fork a snapshot under each name."""
        for name in names:
            self.vm.cli("fork", self.name, snapshot, "--as", name)
        return [Branch(self.vm, name) for name in names]

    def create(self, name: str) -> State:
        """Take a snapshot while the VM stands still; return the last that the guest said before it."""
        with self.vm.qmp(self.name) as monitor:
            monitor.execute("stop")
            monitor.execute("snapshot-create", {"name": name})
            last = self.states()[-1]
            monitor.execute("cont")
        return last

    def serial(self) -> str:
        """Return what the guest said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def states(self) -> list[State]:
        """Return the guest's STATE lines."""
        return parse_states(self.serial())

    def wait_states(self, count: int) -> list[State]:
        """Wait until there are so many STATE lines, and return all."""
        return wait_until(
            lambda: found if len(found := self.states()) >= count else None,
            f"{count} STATE lines of {self.name}",
            broken=lambda: find_failure(self.serial()),
        )

    def assert_goes_on_from(self, state: State) -> None:
        """Assert that the guest counts on from there, and goes on, with RAM and disks agreeing at all times."""
        self.assert_ok()
        first = self.states()[0].ram
        # What the guest had said and we had not yet seen may lie between.
        assert state.ram <= first <= state.ram + 2, f"{self.name} begins with {first}, its snapshot with {state.ram}"

    def assert_ok(self) -> None:
        """Assert that RAM and disks agreed at all times, and that the guest goes on."""
        numbers = [state.ram for state in self.wait_states(len(self.states()) + 3)]
        assert find_trouble(self.serial()) is None, self.name
        assert numbers[-1] > numbers[-3]

    def digests(self) -> dict[str, array[int]]:
        """Return a checksum of each page of RAM, wherever it is mapped; the VM stands still."""
        running = json.loads((self.home / "running.json").read_text())
        return ram.digests(running["qemu_pid"], running["ram"])

    def told(self) -> dict[str, Any]:
        """Return what ``show`` says."""
        told: dict[str, Any] = self.vm.cli_json("show", self.name)
        return told

    def kill(self, which: str) -> None:
        """Kill ``qemu`` or its ``supervisor``, and wait until it is gone, and with QEMU the supervisor."""
        running = json.loads((self.home / "running.json").read_text())
        _kill(running[f"{which}_pid"])
        if which == "qemu":
            wait_until(lambda: self.told()["state"] == "stopped", f"the end of {self.name}")

    def monitor(self) -> QMPClient:
        """Connect to the supervisor."""
        return self.vm.qmp(self.name)


def checksums(*paths: Path) -> dict[str, str]:
    """Return the checksum of each file, and of each in a folder."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def remains(vm: TestVM) -> Mapping[str, object]:
    """Return all that VMs of a test leave in the system: what is there before and after must be the same.

    A client that has just gone may still be connected: that is waited for.
    """
    wait_until(lambda: not _connected(vm), "the end of the last client's connection")
    pids = processes.marked(str(vm.root))
    # The folder stays that says which forks there are, and what SQLite keeps as long as a catalog is open.
    ignored = {"forks", "catalog.sqlite-wal", "catalog.sqlite-shm"}
    sockets = [
        line.split(" ", 7)[-1] for line in Path("/proc/net/unix").read_text().splitlines() if str(vm.root) in line
    ]
    return {
        "processes": [processes.command_line(pid) for pid in pids],
        "files": sorted(str(path) for path in vm.root.rglob("*") if path.name not in ignored and path.suffix != ".log"),
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(vm.root) in line],
        "sockets": sorted(sockets),
        "memory": sorted(path.name for path in Path("/dev/shm").iterdir() if "snaptree" in path.name),
        "descriptors": [_descriptors(pid) for pid in pids],
    }


def _connected(vm: TestVM) -> bool:
    """Say whether a client is connected to a supervisor."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(
        words[5] == "03" and words[-1].startswith(str(vm.root)) and words[-1].endswith("/qmp.sock") for words in lines
    )


def _descriptors(pid: int) -> list[str]:
    """Return the kinds of a process's descriptors, without eventfds.

    QEMU makes an eventfd for each queue of a virtio device that a guest's driver starts, whenever it does.
    """
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind = re.sub(r"[0-9]+", "N", str(fd.readlink()))
        except FileNotFoundError:
            continue
        if kind != "anon_inode:[eventfd]":
            found.append(kind)
    return sorted(found)


def _kill(pid: int) -> None:

    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_until(lambda: select.select([pidfd], [], [], 0)[0], f"the end of process {pid}")
    finally:
        os.close(pidfd)
