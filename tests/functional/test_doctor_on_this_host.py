"""``doctor`` answers on this host, for each QEMU, and leaves nothing behind."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework import processes


def test_the_doctor_knows_this_qemu_and_changes_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0, guest="linux")
    before = sorted(vm.root.rglob("*"))
    found = {item["name"]: item for item in vm.cli_json("doctor", str(vm.qemu.system))}
    assert found["qemu"]["state"] == "ok"
    assert f"is QEMU {vm.qemu.version}." in found["qemu"]["message"]
    assert found["snapshot-save"]["state"] == found["x-ignore-shared"]["state"] == "ok"
    assert found["numpy"]["state"] == "ok"
    assert sorted(vm.root.rglob("*")) == before
    assert processes.marked(str(vm.root)) == []


def test_it_answers_for_people_too_and_a_qemu_that_is_none_is_no_failure(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0, guest="linux")
    done = vm.cli("doctor", "/bin/true")
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith('missing "/bin/true" was asked about its machine types')
    assert second.startswith("        ")
    assert all(line.split()[0] in ("ok", "limited", "missing") for line in done.stdout.splitlines() if line[0] != " ")
