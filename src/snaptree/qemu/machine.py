"""What the VM is made of, as far as it must be the same when a snapshot is loaded.  Not for: its block devices.

QEMU itself compares very little, and only after the disks are reverted: another RAM size or a device less fail then,
another CPU or a device more are accepted without a word.

What differs between QEMU's versions for one and the same machine is left out, so that a snapshot can be loaded after
the host was upgraded: the board's own parts, feature words that only a newer QEMU knows and the CPU doesn't use, and
the bits that only say that there is more than one CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PERIPHERAL = "/machine/peripheral"
PERIPHERAL_ANON = "/machine/peripheral-anon"
UNATTACHED = "/machine/unattached"

_CHOSEN = ("floppy", "hpet", "ide-", "isa-parallel", "isa-serial", "scsi-", "usb-")
"""What the short options (-serial, -drive if=ide, -usbdevice) put among the board's own parts, PCI devices apart."""

_TOPOLOGY = {(0x1, "EDX"): 1 << 28, (0x80000001, "ECX"): 1 << 1}
"""CPUID_HT and CPUID_EXT3_CMP_LEG, which QEMU 10 shows among the features and 7.2 did not."""


def machine_type(qom_type: str) -> str:
    """Return the versioned name of a machine by its QOM type (``pc-i440fx-7.2-machine``)."""
    return qom_type.removesuffix("-machine")


def cpu_text(qom_type: str, feature_words: Sequence[Mapping[str, Any]], *, kvm: bool) -> str:
    """Return the CPU's type, the accelerator, and, where QEMU tells the features, a digest of them.

    The accelerator belongs to it: a state of KVM's interrupt controllers and clock doesn't load under TCG.

    :param feature_words: the property ``feature-words`` of an x86 CPU; empty on other targets.
    """
    words = (
        (word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0), word["cpuid-register"], word["features"])
        for word in feature_words
    )
    masked = ((eax, ecx, reg, bits & ~_TOPOLOGY.get((eax, reg), 0)) for eax, ecx, reg, bits in words)
    used = sorted(word for word in masked if word[3])
    text = f"{qom_type.removesuffix('-cpu')} {'kvm' if kvm else 'tcg'}"
    return f"{text} {hashlib.sha256(repr(used).encode()).hexdigest()[:16]}" if used else text


def plugged(
    peripheral: Iterable[Mapping[str, Any]],
    anonymous: Iterable[Mapping[str, Any]],
    unattached: Iterable[Mapping[str, Any]],
    pci: Sequence[Mapping[str, Any]],
) -> tuple[str, ...]:
    """Return the plugged devices, sorted: ``ID=TYPE`` or ``TYPE``, and ``pci SLOT.FUNCTION VENDOR:DEVICE``.

    :param peripheral, anonymous, unattached: what ``qom-list`` returned for the three containers.
    :param pci: what ``query-pci`` returned.  Of it the first root bus only: whether QEMU shows a bus behind a bridge
        depends on what the guest's firmware has set up so far.
    """
    found = [f"{item['name']}={kind}" for item in peripheral if (kind := _child_type(item))]
    found += [kind for item in anonymous if (kind := _child_type(item))]
    found += [kind for item in unattached if (kind := _child_type(item)).startswith(_CHOSEN)]
    for bus in pci:
        if bus["bus"] == 0:
            found += [_pci(device) for device in bus["devices"]]
    return tuple(sorted(found))


def ram_size(summary: Mapping[str, Any]) -> int:
    """Return the bytes of RAM in ``query-memory-size-summary``, hotplugged ones included."""
    return int(summary["base-memory"]) + int(summary.get("plugged-memory", 0))


def _child_type(item: Mapping[str, Any]) -> str:
    kind = str(item["type"])
    return kind[len("child<") : -1] if kind.startswith("child<") else ""


def _pci(device: Mapping[str, Any]) -> str:
    where = f"{device['slot']:02x}.{device['function']}"
    return f"pci {where} {device['id']['vendor']:04x}:{device['id']['device']:04x}"
