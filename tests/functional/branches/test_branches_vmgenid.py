"""Which page a load changes for a vmgenid device, on real QEMU."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.plain import PlainQEMU
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

from snaptree.qemu.vmgenid import GUID_OFFSET, is_generation_page

PAGE = 4096


def start(vm: TestVM, machine: str, ram: Path, *extra: str) -> PlainQEMU:
    backend = f"memory-backend-file,id=pc.ram,size=64M,share=on,mem-path={ram}"
    words = ("-object", backend, "-machine", f"{machine},memory-backend=pc.ram", "-device", "vmgenid,guid=auto")
    return vm.start_plain_qemu(*words, *extra, disks="blockdev", memory_mib=64)


def run_job(qemu: PlainQEMU, command: str) -> None:
    ignore: dict[str, Any] = {"capability": "x-ignore-shared", "state": True}
    qemu.qmp.execute("migrate-set-capabilities", {"capabilities": [ignore]})
    qemu.qmp.execute(command, {"job-id": "j", "tag": "s", "vmstate": "disk-a", "devices": ["disk-a"]})

    def ended() -> Any:
        (job,) = qemu.qmp.execute("query-jobs")
        return job if job["status"] == "concluded" else None

    assert "error" not in wait_until(ended, f"the end of {command}")
    qemu.qmp.execute("job-dismiss", {"id": "j"})


def guid_of(qemu: PlainQEMU) -> str:
    return str(qemu.qmp.execute("query-vm-generation-id")["guid"])


def changed(before: bytes, after: bytes) -> list[int]:
    return [at for at in range(0, len(before), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]]


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_load_changes_one_page_in_a_new_process_and_none_in_place(vm_factory: VMFactory, machine: str) -> None:
    vm = vm_factory(disks=1)
    ram = vm.root / "ram"
    qemu = start(vm, machine, ram)
    vm.wait_states(2)
    qemu.qmp.execute("stop")
    run_job(qemu, "snapshot-save")
    saved = ram.read_bytes()
    run_job(qemu, "snapshot-load")
    assert changed(saved, ram.read_bytes()) == []
    old = guid_of(qemu)
    qemu.kill()
    with ram.open("r+b") as file:
        file.write(saved)
    qemu = start(vm, machine, ram, "-S")
    assert changed(saved, ram.read_bytes()) == []
    run_job(qemu, "snapshot-load")
    loaded, new = ram.read_bytes(), guid_of(qemu)
    assert new != old
    (at,) = changed(saved, loaded)
    assert saved[at + GUID_OFFSET : at + GUID_OFFSET + 16] == uuid.UUID(old).bytes_le
    assert is_generation_page(saved[at : at + PAGE], loaded[at : at + PAGE], new)
