"""Disks that fail, and file systems that are full: the snapshots of before are whole, and nothing half is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.faults import kill, supervisor_of
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import bare

EIO, ENOSPC = 5, 28
POINTS = [
    ("l1_update", EIO, "off"),
    ("l1_update", ENOSPC, "on"),
    ("refblock_load", EIO, "off"),
    ("refblock_update_part", ENOSPC, "off"),
    ("refblock_alloc", ENOSPC, "off"),
    ("cluster_alloc", ENOSPC, "off"),
    ("cluster_alloc_bytes", ENOSPC, "off"),
    ("l2_load", EIO, "off"),
    ("l2_update", EIO, "off"),
    ("l2_alloc_write", ENOSPC, "off"),
    ("cluster_free", EIO, "on"),
    ("flush_to_os", EIO, "off"),
    ("flush_to_disk", EIO, "on"),
    ("flush_to_disk", ENOSPC, "off"),
    ("pwritev", EIO, "on"),
    ("pwritev", ENOSPC, "off"),
    ("read_aio", EIO, "on"),
    ("write_aio", EIO, "off"),
]
"""Where the second disk fails (blkdebug's events), how, and whether only once."""
PARTS = 3


class Failing:
    """A VM without a guest whose second disk fails as a file says."""

    def __init__(self, vm: TestVM) -> None:
        self.vm = vm
        self._rules = vm.root / "blkdebug.conf"
        self.works()
        a, b = vm.disks
        self.argv = [
            *bare(vm, disks="none", memory_mib=32),
            *("-drive", f"file={a},format=qcow2,if=virtio"),
            *("-drive", f"file=blkdebug:{self._rules}:{b},format=qcow2,if=virtio"),
        ]

    def works(self) -> None:
        self._rules.write_text("")

    def fails(self, event: str, errno: int, once: str) -> None:
        self._rules.write_text(f'[inject-error]\nevent = "{event}"\nerrno = "{errno}"\nonce = "{once}"\n')

    def run(self) -> subprocess.CompletedProcess[str]:
        return self.vm.cli("run", "--detach", "dev", "--", *self.argv, check=False)


def end(vm: TestVM) -> None:
    """End the VM by SIGKILL: a disk that fails may let QEMU end in no other way."""
    directory = vm.home / "vms" / "dev"
    supervisor = supervisor_of(directory)
    running = json.loads((directory / "running.json").read_text()) if (directory / "running.json").exists() else {}
    ours = set(processes.marked(str(vm.root)))
    for pid in (running.get("qemu_pid"), supervisor):
        if pid in ours:
            kill(pid)


def attempt(client: QMPClient, command: str, **arguments: object) -> bool:
    """Ask for something that may fail, or end QEMU; say whether it was done."""
    try:
        client.execute(command, arguments)
    except (QMPError, AssertionError, OSError):
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS) if "SNAPTREE_TORTURE" in os.environ else [0])
def test_a_disk_that_fails_at_any_point_costs_no_snapshot(vm_factory: VMFactory, part: int) -> None:
    vm = vm_factory()
    failing = Failing(vm)
    failing.run()
    with vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "good"})
    end(vm)
    failed = 0
    for number, (event, errno, once) in enumerate(POINTS[part::PARTS]):
        what = f"{event} fails with {errno}, once: {once}"
        name, created = f"new-{number}", False
        failing.fails(event, errno, once)
        if failing.run().returncode == 0:
            with vm.qmp() as client:
                attempt(client, "snapshot-load", name="good", keep=False)
                created = attempt(client, "snapshot-create", name=name)
                attempt(client, "snapshot-load", name="good", keep=False)
            failed += not created
        end(vm)
        failing.works()
        started = failing.run()
        assert started.returncode == 0, (what, started.stderr)
        with vm.qmp() as client:
            there = {snapshot["name"]: snapshot for snapshot in client.execute("query-snapshots", {"foreign": True})}
            # What was reported as created is there, what was not may be, and whatever is there is whole.
            assert {"good"} | ({name} if created else set()) <= set(there) <= {"good", name}, (what, there)
            assert all(snapshot["consistent"] for snapshot in there.values()), (what, there)
            for known in there:
                client.execute("snapshot-load", {"name": known, "keep": False})
                assert contents(vm, client) == [1, 1], (what, known)
            check = client.execute("query-snapshot-check")
            assert check["ok"], (what, check)
            if name in there:
                client.execute("snapshot-delete", {"name": name})
        end(vm)
    assert failed, "no error reached a create"


@contextmanager
def small_file_system(path: Path, mib: int) -> Iterator[Path]:
    """Put a tmpfs of this size there, in the place of what is there; unmounted at the end."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Leave no byte free on the file system of a folder."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("where", ["pages", "home", "images"])
def test_a_full_file_system_fails_a_create_by_name_and_costs_nothing(vm_factory: VMFactory, where: str) -> None:
    vm = vm_factory(pace_ms=1)
    folder = {"pages": vm.home / "vms" / "dev" / "pages", "home": vm.home, "images": vm.root / "images"}[where]
    if where == "pages":  # the VM's folder is there before its page store
        vm.run(memory_mib=32)
        vm.cli("stop", "dev", "--discard")
    with small_file_system(folder, 24):
        if where == "images":
            for number, disk in enumerate(vm.disks):
                vm.disks[number] = folder / disk.name
                shutil.move(disk, folder)
        try:
            vm.run(memory_mib=32)
            vm.wait_states(2)
            vm.cli("create", "dev", "good")
            vm.wait_states(2, vm.serial_end())
            with full(folder):
                done = vm.cli("create", "dev", "late", check=False)
                assert done.returncode in (1, 4), done
                assert "Traceback" not in done.stderr
                # QEMU has no better word for a VM state that finds no room than "Input/output error".
                assert f'(mounted at "{folder}") is full: 0.0 MiB of 24.0 MiB are free, and about ' in done.stderr
                assert "Make room there" in done.stderr
                # Nobody who only looks needs room.
                assert [found["name"] for found in vm.cli_json("list", "dev")] == ["good"]
            if where == "images":  # QEMU has stopped the guest where it could not write
                with vm.qmp() as client:
                    client.execute("cont")
            listed = vm.cli_json("list", "dev", "--foreign")
            assert [(found["name"], found["consistent"]) for found in listed] == [("good", True)]
            vm.cli("create", "dev", "then")
            since = vm.serial_end()
            vm.cli("load", "dev", "good", "--discard")
            vm.wait_states(2, since)
            vm.assert_guest_ok()
            vm.cli("load", "dev", "then", "--discard")
            check = vm.cli("check", "dev", check=False)
            assert check.returncode == 0, check.stdout
        finally:
            end(vm)
