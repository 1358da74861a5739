"""What disks hold, as one byte all over their first 64 KiB, in a QEMU without a guest.  Not for: RAM.

A test writes another number at each moment; what it finds on a disk later tells of which moment that disk is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM

DRIVES = ("virtio0", "virtio1")
"""The devices of ``safety.bare``, in the order of ``TestVM.disks``."""

_OFFSET, _ZERO, _COMPRESSED = 0x00FFFFFFFFFFFE00, 1, 1 << 62
"""Of an entry of L1 or L2."""


def write(client: QMPClient, pattern: int, drives: Sequence[str] = DRIVES) -> None:
    """Write to the disks of a QEMU that runs, as its guest would.

    :param client: of QEMU itself or of its supervisor.
    """
    for drive in drives:
        assert client.hmp(f'qemu-io {drive} "write -q -P {pattern} 0 64k"') == ""


def contents(vm: TestVM, client: QMPClient | None = None, drives: Sequence[str] = DRIVES) -> list[int]:
    """Return what the disks hold.

    :param client: of the QEMU that has them open, if there is one: it has to write its tables back first.
    """
    if client is not None:
        for drive in drives[: len(vm.disks)]:
            assert client.hmp(f"qemu-io {drive} flush") == ""
    return [_first_byte(disk) for disk in vm.disks]


def _first_byte(disk: Path) -> int:
    """Return it as the qcow2 format says where it is: a process for each look would take most of a test's time."""
    with disk.open("rb") as file:
        magic, version, backing, _, _, _, encrypted, _, l1_offset = struct.unpack(">4sIQIIQIIQ", file.read(48))
        assert (magic, backing, encrypted) == (b"QFI\xfb", 0, 0), f"{disk} is no plain image"
        if version > 2:
            file.seek(72)
            assert file.read(8) == bytes(8), f"{disk} is dirty, corrupt or of another kind"
        table = _number(file, l1_offset) & _OFFSET
        entry = _number(file, table) if table else 0
        assert not entry & _COMPRESSED
        if entry & _ZERO or not entry & _OFFSET:
            return 0
        file.seek(entry & _OFFSET)
        return file.read(1)[0]


def _number(file: IO[bytes], offset: int) -> int:
    file.seek(offset)
    return int.from_bytes(file.read(8), "big")
