"""VMs that don't run, with images whose content tells of which moment they are.  Not for: VMs that run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents
from tests.functional.traps.safety import bare, fill, under_care


def stopped_vm(vm: TestVM) -> TestVM:
    """Run and stop a VM, so that it is known."""
    with under_care(vm, bare(vm)):
        pass
    return vm


def set_disks(vm: TestVM, pattern: int) -> None:
    """Write a pattern to all disks."""
    for disk in vm.disks:
        fill(vm, disk, pattern)


def taken(vm: TestVM, name: str, pattern: int) -> dict[str, Any]:
    """Write a pattern and take a snapshot of it."""
    set_disks(vm, pattern)
    return dict(vm.cli_json("create", vm.name, name))


def names(vm: TestVM, *options: str) -> list[str]:
    """Return the names of all snapshots."""
    return [found["name"] for found in vm.cli_json("list", vm.name, *options)]


def current(vm: TestVM) -> str:
    """Return the name of the current snapshot."""
    return next((found["name"] for found in vm.cli_json("list", vm.name) if found["current"]), "")


def tables(vm: TestVM) -> list[list[tuple[str, str]]]:
    """Return QEMU's ids and tags in each image, as qemu-img tells them."""
    found = []
    for disk in vm.disks:
        said = json.loads(vm.tool("qemu-img", "info", "-U", "--output=json", str(disk)).stdout)
        found.append([(entry["id"], entry["name"]) for entry in said.get("snapshots", ())])
    return found


def refused(vm: TestVM, *command: str, code: int = 4) -> dict[str, Any]:
    """Run a command that must change nothing, and return its error."""
    before = (tables(vm), contents(vm), names(vm), current(vm), vm.cli_json("log", vm.name))
    done = vm.cli(command[0], "--json", *command[1:], check=False)
    assert done.returncode == code, done
    assert (tables(vm), contents(vm), names(vm), current(vm), vm.cli_json("log", vm.name)) == before
    error = json.loads(done.stdout)["error"]
    assert error["remedy"]
    return dict(error)


def codes(error: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the codes of an error's reasons, with their devices."""
    return [(reason["code"], reason["device"]) for reason in error["reasons"]]


def assert_images_whole(vm: TestVM, disks: Sequence[Path] = ()) -> None:
    """Assert that qemu-img finds no fault in any image."""
    for disk in disks or vm.disks:
        vm.tool("qemu-img", "check", "-q", str(disk))
