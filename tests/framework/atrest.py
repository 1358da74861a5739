"""A VM that was run, snapshotted in both ways and stopped; damaged by a test, and put back for the next one.

Not for: what a test expects of it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from snaptree.qcow2.image import Image

from .qemus import QEMU
from .vm import TestVM

FULL, PAGED, LAST = "full", "paged", "last"
"""The snapshots: the RAM of the first is in QEMU's VM state, that of the others in the page store."""


class AtRest:
    """The VM, its snapshots' tags and ids by name, and its images a and b."""

    def __init__(self, qemu: QEMU) -> None:
        self.vm = vm = TestVM(qemu, "dev")
        vm.cli("run", "--detach", "--memory", "full", "dev", "--", *vm.qemu_args())
        vm.cli("create", "dev", FULL, "-m", "text")
        vm.cli("stop", "--discard", "dev")
        vm.run()
        vm.cli("load", "--discard", "dev", FULL, check=False)
        vm.cli("create", "dev", PAGED)
        vm.cli("create", "dev", LAST)
        vm.cli("stop", "--discard", "dev")
        self.a, self.b = vm.disks
        self.home = vm.home / "vms" / "dev"
        listed = vm.cli_json("list", "dev")
        self.ids = {snapshot["name"]: snapshot["id"] for snapshot in listed}
        self.tags = {name: vm.cli_json("show", "dev", name)["tag"] for name in self.ids}
        self.memory = {snapshot["name"]: snapshot["memory"] for snapshot in listed}
        self._backup = vm.root / "backup"
        shutil.copytree(self.home, self._backup / "home")
        for disk in vm.disks:
            shutil.copy(disk, self._backup)

    def put_back(self) -> None:
        """Undo every damage."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self._backup / "home", self.home)
        for disk in self.vm.disks:
            shutil.copy(self._backup / disk.name, disk)

    def check(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run check --json; return the exit code and the document."""
        done = self.vm.cli("check", "--json", *(words or ("dev",)), check=False)
        return done.returncode, json.loads(done.stdout)

    def codes(self, *words: str) -> set[tuple[str, str | None, str | None]]:
        """Return code, snapshot and device of everything that a check finds; its exit code has to fit."""
        code, document = self.check(*words)
        assert code == (0 if document["ok"] else 5)
        return {(f["code"], f["snapshot"], f["device"]) for f in document["findings"]}

    def repair(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run repair; it is not checked how it ends."""
        before = dict(self.vm.env)
        self.vm.env |= env or {}
        try:
            return self.vm.cli("repair", *words, "dev", check=False)
        finally:
            self.vm.env.clear()
            self.vm.env |= before

    def listed(self) -> list[dict[str, Any]]:
        """Return list --json."""
        found: list[dict[str, Any]] = self.vm.cli_json("list", "dev")
        return found

    def img(self, *words: str) -> None:
        """Run qemu-img snapshot."""
        self.vm.tool("qemu-img", "snapshot", *words)

    def patch_entry(self, image: Path, tag: str, **values: int) -> None:
        """Change vm_clock_ns or vm_state_size of an entry of an image's snapshot table, in place."""
        with Image.open(image) as opened:
            header, table = opened.header, opened.snapshots()
        data = bytearray(image.read_bytes())
        at = header.snapshots_offset
        for entry in table:
            id_bytes, tag_bytes = struct.unpack_from(">HH", data, at + 12)
            (extra,) = struct.unpack_from(">I", data, at + 36)
            if entry.tag == tag:
                if "vm_clock_ns" in values:
                    struct.pack_into(">Q", data, at + 24, values["vm_clock_ns"])
                if "vm_state_size" in values:
                    struct.pack_into(">I", data, at + 32, values["vm_state_size"])
                    struct.pack_into(">Q", data, at + 40, values["vm_state_size"])
            at += 40 + extra + id_bytes + tag_bytes + 7 & ~7
        image.write_bytes(data)

    def sql(self, text: str, *values: object) -> None:
        """Change the catalog behind snaptree's back."""
        with closing(sqlite3.connect(self.home / "catalog.sqlite")) as db, db:
            db.execute(text, values)


def flip(file: Path, at: int) -> None:
    """Flip the bits of a byte."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)
