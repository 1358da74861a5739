from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from snaptree.qemu.machine import cpu_text, machine_type, plugged, ram_size

if TYPE_CHECKING:
    from .conftest import Recorded

    Open = Callable[[str], Recorded]


def word(features: int, eax: int = 1, register: str = "ECX") -> dict[str, Any]:
    return {"cpuid-input-eax": eax, "cpuid-register": register, "features": features}


def test_the_machine_type_is_the_versioned_name(recorded: Open) -> None:
    assert recorded("drives").facts().machine.machine == "pc-i440fx-7.2"
    assert recorded("pflash-qcow2").facts().machine.machine == "pc-q35-7.2"
    assert machine_type("") == ""


def test_the_same_command_line_gives_the_same_cpu(recorded: Open) -> None:
    assert recorded("drives").facts().machine.cpu == recorded("blockdevs").facts().machine.cpu


def test_a_newer_qemu_changes_neither_the_cpu_nor_the_devices(recorded: Open) -> None:
    old, new = recorded("drives").facts().machine, recorded("drives-qemu10").facts().machine
    assert (old.cpu, old.devices) == (new.cpu, new.devices)


def test_another_cpu_model_is_another_cpu(recorded: Open) -> None:
    then, now = recorded("drives").facts().machine.cpu, recorded("cpu-max").facts().machine.cpu
    assert then.startswith("qemu64-x86_64 tcg ")
    assert now.startswith("max-x86_64 tcg ")
    assert then.split()[2] != now.split()[2]


def test_one_feature_less_is_another_cpu() -> None:
    assert cpu_text("max-x86_64-cpu", [word(3)], kvm=False) != cpu_text("max-x86_64-cpu", [word(1)], kvm=False)


def test_kvm_and_tcg_are_two_cpus() -> None:
    assert cpu_text("max-x86_64-cpu", [word(3)], kvm=True) != cpu_text("max-x86_64-cpu", [word(3)], kvm=False)


def test_order_and_words_that_a_newer_qemu_adds_without_a_feature_change_nothing() -> None:
    old = cpu_text("a-cpu", [word(3), word(5, 7)], kvm=False)
    assert old == cpu_text("a-cpu", [word(5, 7), word(0, 0x80000021, "EAX"), word(3)], kvm=False)


def test_that_there_are_more_cpus_than_one_is_no_feature() -> None:
    one = cpu_text("a-cpu", [word(3, 1, "EDX")], kvm=False)
    assert one == cpu_text("a-cpu", [word(3 | 1 << 28, 1, "EDX"), word(2, 0x80000001, "ECX")], kvm=False)


def test_without_feature_words_the_type_is_the_cpu() -> None:
    assert cpu_text("cortex-a57-arm-cpu", [], kvm=False) == "cortex-a57-arm tcg"


def test_cpus_and_ram_are_counted(recorded: Open) -> None:
    assert recorded("cpu-max").facts().machine.cpus == 2
    assert recorded("drives").facts().machine.ram_size == 64 * 1024**2
    assert ram_size({"base-memory": 1024, "plugged-memory": 512}) == 1536


def test_devices_are_listed_with_id_type_and_place(recorded: Open) -> None:
    devices = recorded("serial-vga-usb").facts().machine.devices
    assert list(devices) == sorted(devices)
    for expected in (
        "disk0=virtio-blk-pci",
        "rp0=pcie-root-port",
        "tablet=usb-tablet",
        "qemu-xhci",
        "isa-serial",
        "pci 01.0 1234:1111",  # -vga std
        "pci 02.0 8086:10d3",  # -net nic,model=e1000e
    ):
        assert expected in devices


def test_what_stands_behind_a_bridge_has_no_place_since_the_firmware_changes_it(recorded: Open) -> None:
    devices = recorded("serial-vga-usb").facts().machine.devices
    assert not [entry for entry in devices if entry.startswith("pci") and "1af4" in entry]


@pytest.mark.parametrize("kind", ["child<i8042>", "child<PIIX3>", "child<qemu64-x86_64-cpu>", "irq", "link<bus>"])
def test_parts_of_the_board_are_not_listed(kind: str) -> None:
    assert plugged([], [], [{"name": "device[0]", "type": kind}], []) == ()


def test_two_alike_are_listed_twice() -> None:
    anonymous = [{"name": f"device[{i}]", "type": "child<usb-tablet>"} for i in range(2)]
    assert plugged([], anonymous, [], []) == ("usb-tablet", "usb-tablet")
