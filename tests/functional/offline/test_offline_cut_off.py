"""Supervisor and QEMU were killed in the middle: the next command on the VM's images ends that first, and says so."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.framework.faults import ending, kill, supervisor_of
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.offline.stopped import current, names, tables
from tests.functional.traps.safety import bare

POINTS = [
    ("create", "begun", False, "create"),
    ("create", "saved", False, "load"),  # its pages of RAM were not kept yet
    ("create", "kept", True, "delete"),
    ("create", "whole", True, "create"),
    ("load", "begun", False, "create"),
    ("load", "loaded", True, "create"),
    ("load", "noted", True, "delete"),
]
"""An operation, where it is cut off, whether it has happened for whoever looks afterwards, and the next command."""


def cut_off(vm: TestVM, operation: str, point: str) -> None:
    """Take a and b, then kill supervisor and QEMU at this point; the disks hold 3 at that moment."""
    vm.cli("run", "--detach", vm.name, "--", *bare(vm))
    with vm.qmp() as client:
        qemu_pid = client.execute("query-vm")["qemu_pid"]
        for name, pattern in (("a", 1), ("b", 2)):
            write(client, pattern)
            client.execute("snapshot-create", {"name": name})
        write(client, 3)
    directory = vm.home / "vms" / vm.name
    supervisor = supervisor_of(directory)
    assert supervisor is not None
    kill(supervisor)
    vm.env["SNAPTREE_TRACE"] = f"{operation}.{point}=kill"
    vm.cli("attach", "--detach", vm.name)
    del vm.env["SNAPTREE_TRACE"]
    supervisor = supervisor_of(directory)
    assert supervisor is not None
    words = ["--discard", vm.name, "a"] if operation == "load" else [vm.name, "new"]
    with ending(supervisor):
        assert vm.cli(operation, *words, check=False).returncode != 0
    kill(qemu_pid)
    assert vm.cli_json("vms")[0]["state"] == "stopped"


@pytest.mark.parametrize(("operation", "point", "happened", "command"), POINTS)
@pytest.mark.qemu("10")  # what is done afterwards is qemu-img's, and the same in both
def test_a_command_on_the_images_ends_what_was_cut_off_and_goes_on(
    vm_factory: VMFactory, operation: str, point: str, happened: bool, command: str
) -> None:
    vm = vm_factory()
    cut_off(vm, operation, point)
    # Who only asks is answered, and ends nothing.
    assert set(names(vm)) == {"a", "b"}
    done = vm.cli(command, *["--discard"] * (command == "load"), vm.name, {"create": "next"}.get(command, "b"))
    said = [line for line in done.stderr.splitlines() if "which was cut off" in line]
    assert len(said) == 1, done
    assert (f"{operation} of {'new' if operation == 'create' else 'a'}, which was cut off") in said[0]
    assert done.stderr.count("\n") == 1, done

    there = {"a": [1, 1], "b": [2, 2]}
    there |= {"new": [3, 3]} if operation == "create" and happened else {}
    at = [1, 1] if operation == "load" and happened else [3, 3]
    if command == "create":
        there["next"] = at
    elif command == "load":
        at = there["b"]
    else:
        del there["b"]
    assert contents(vm) == at
    assert set(names(vm, "--foreign")) == set(there)
    assert [len(table) for table in tables(vm)] == [len(there)] * 2
    if command == "create":
        assert current(vm) == "next"
    assert vm.cli("check", vm.name).returncode == 0
    assert all(found["consistent"] for found in vm.cli_json("list", vm.name))
    for name, content in there.items():
        vm.cli("load", "--discard", vm.name, name)
        assert contents(vm) == content
    for disk in vm.disks:
        # 3: only clusters that nobody uses, which QEMU had not written back when it was killed.
        assert vm.tool("qemu-img", "check", "-q", str(disk), check=False).returncode in (0, 3)
