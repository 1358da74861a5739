"""Sizes as QEMU's options have them.  Not for: sizes for people."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(?:(?P<hex>0[xX][0-9a-fA-F]+)|(?P<whole>[0-9]+)(?P<part>\.[0-9]+)?)(?P<unit>[bBkKmMgGtTpPeE]?)")
_UNITS = "BKMGTPE"


def parse(text: str) -> int | None:
    """Return the bytes of ``2G``, ``1.5M``, ``0x100000`` (qemu_strtosz()); ``None`` where it is no size.

    Without a unit it is bytes.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    factor = 1 << 10 * _UNITS.index(match["unit"].upper() or "B")
    if match["hex"]:
        return int(match["hex"], 16) * factor
    part = match["part"] or ""
    # As whole numbers: a float would lose the last bytes.
    return int(match["whole"]) * factor + (int(part[1:]) * factor // 10 ** (len(part) - 1) if part else 0)
