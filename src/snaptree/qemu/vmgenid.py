"""Which page of guest RAM QEMU writes for a vmgenid device while it loads.  Not for: choosing the id.

With ``-device vmgenid`` the firmware gives QEMU a page of RAM, and its address is device state.  Whenever QEMU loads
device state it writes the id that *this process* has (``vmgenid_post_load()``) to byte 40 of that page, 16 bytes, and
nothing else; with ``guid=auto`` each process has another.  So in place the page does not change, and in a new process,
a branch or a resumed VM, it must not be put back: the new id is how the guest knows that it was copied.
QEMU 7.2 and 10.0, pc and q35, `snapshot-load` and an incoming migration do the same.
"""

from __future__ import annotations

import uuid
from typing import Final

GUID_OFFSET: Final = 40
"""``VMGENID_GUID_OFFSET`` in QEMU's hw/acpi/vmgenid.h."""

_END = GUID_OFFSET + 16


def is_generation_page(saved: bytes, now: bytes, guid: str) -> bool:
    """Say whether a page that changed while QEMU loaded is the one that holds the id, changed by nothing else.

    :param saved: the page, 4096 bytes, as it was put there before the load.
    :param now: as it is after.
    :param guid: what ``query-vm-generation-id`` returns.
    """
    # A GUID in memory has its first three fields little endian (qemu_uuid_bswap()).
    written = uuid.UUID(guid).bytes_le
    return now[GUID_OFFSET:_END] == written and saved[:GUID_OFFSET] + written + saved[_END:] == now
