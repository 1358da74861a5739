"""Real QEMU starts with every disk argument that was given another image, and the guest gets that image."""

from __future__ import annotations

import json

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM

from snaptree.qemu.diskargs import with_disks
from snaptree.qemu.overlay import write_overlay

FILE = "file,node-name=f,filename={a}"
SCSI = "-device virtio-scsi-pci"

WRITES = [
    "-drive file={a},format=qcow2,if=virtio,cache=none",
    "-drive file={a},index=0,media=disk",
    "-hda {a}",
    "{a}",
    "-drive if=none,id=d,file={a} -device virtio-blk-pci,drive=d",
    "-drive driver=qcow2,file.driver=file,file.filename={a},if=virtio",
    "-drive if=none,id=d,file={a} " + SCSI + " -device scsi-hd,drive=d",
    "-blockdev qcow2,node-name=q,file.driver=file,file.filename={a} -device ide-hd,drive=q",
    f"-blockdev {FILE} -blockdev qcow2,node-name=q,file=f -device virtio-blk-pci,drive=q",
    f"-object throttle-group,id=g -blockdev {FILE} -blockdev qcow2,node-name=q,file=f"
    " -blockdev throttle,node-name=t,file=q,throttle-group=g -device virtio-blk-pci,drive=t",
    '-blockdev {{"driver":"qcow2","node-name":"q","file":{{"driver":"file","filename":"{a}"}}}}'
    ' -device {{"driver":"virtio-blk-pci","drive":"q"}}',
]
"""A guest writes to these."""

NO_DISK = [
    "-drive if=pflash,unit=0,format=raw,readonly=on,file={bios} -drive if=pflash,unit=1,format=qcow2,file={flash}",
    "-blockdev raw,node-name=b,read-only=on,file.driver=file,file.filename={bios}"
    " -blockdev qcow2,node-name=v,file.driver=file,file.filename={flash} -machine pflash0=b,pflash1=v",
    "-fda {a}",
    "-drive if=none,id=d,file={a} -device floppy,drive=d",
    "-usb -device qemu-xhci -drive if=none,id=d,file={a} -device usb-storage,drive=d",
    "-device sdhci-pci -drive if=none,id=d,file={a} -device sd-card,drive=d",
]
"""With these a QEMU starts, and the image is the new one."""


def replaced(vm: TestVM, line: str) -> list[str]:
    """Return the disk arguments with an overlay in place of each image."""
    images = {"a": vm.disks[0], "flash": vm.new_image("flash", "64K")}
    sizes = {"a": 64 << 20, "flash": 64 << 10}
    old_new = {}
    for name, path in images.items():
        if f"{{{name}}}" in line:
            overlay = vm.root / f"overlay,{name}.qcow2"
            write_overlay(overlay, sizes[name], str(path), "qcow2")
            old_new[str(path)] = str(overlay)
    words = [word.format(a=images["a"], flash=images["flash"], bios=vm.qemu.bios) for word in line.split(" ")]
    done = with_disks(["q", *words], old_new)
    assert done.reasons == ()
    return list(done.argv[1:])


def files(vm: TestVM, nodes: list[dict[str, object]]) -> set[str]:
    return {str(node["file"]) for node in nodes if node["drv"] == "qcow2" and str(vm.root) in str(node["file"])}


@pytest.mark.parametrize("line", WRITES)
def test_a_guest_writes_to_the_new_image_and_the_old_one_stays(vm_factory: VMFactory, line: str) -> None:
    vm = vm_factory(disks=1)
    before = vm.disks[0].read_bytes()
    guest = vm.start_plain_qemu(*replaced(vm, line), disks="none")
    vm.wait_states(3)
    vm.assert_guest_ok()
    assert len(files(vm, guest.qmp.execute("query-named-block-nodes", {"flat": True}))) == 2  # it and its backing image
    policies = [device.get("io-status") for device in guest.qmp.execute("query-block") if device.get("inserted")]
    assert policies == ["ok"], "QEMU tells an I/O status only of a device that stops on errors"
    guest.kill()
    assert vm.disks[0].read_bytes() == before


@pytest.mark.parametrize("line", NO_DISK)
def test_qemu_starts_with_the_new_image(vm_factory: VMFactory, line: str) -> None:
    vm = vm_factory(disks=1)
    qemu = vm.start_plain_qemu(*replaced(vm, line), "-S", disks="none")
    nodes = qemu.qmp.execute("query-named-block-nodes", {"flat": True})
    assert any("overlay" in file for file in files(vm, nodes)), json.dumps(nodes)
