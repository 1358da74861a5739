"""What disks hold, as one byte all over their first 64 KiB, in a QEMU without a guest.  Not for: RAM.

A test writes another number at each moment; what it finds on a disk later tells of which moment that disk is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM

DRIVES = ("virtio0", "virtio1")
"""The devices of ``safety.bare``, in the order of ``TestVM.disks``."""


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
    return [_first_byte(vm, str(disk)) for disk in vm.disks]


def _first_byte(vm: TestVM, disk: str) -> int:
    said = vm.tool("qemu-io", "-f", "qcow2", "-r", "-U", "-c", "read -v 0 1", disk).stdout
    match = re.match(r"00000000:  ([0-9a-f]{2}) ", said)
    assert match is not None, said
    return int(match[1], 16)
