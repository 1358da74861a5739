"""Assembles the firmware guest from ``firmware.lst``.  Not for: any other program than that one.

The listing says what the guest does and in which form it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

LISTING = Path(__file__).with_name("firmware.lst")
DISKS_MAX = 4
TICK_MS = 55
"""The BIOS counts 18.2 ticks a second."""

FILE_BYTES = 6 * 512
"""The boot sector, four sectors of real-mode code, and one more, because QEMU wants a kernel after them."""

_TOKEN = re.compile(r'"[^"]*"|[^\s";]+')
_WIDTH = {"short": 1, "near": 2, "at": 2, "byte": 1, "word": 2}


def firmware_image(*, disks: int = 2, pace_ms: int = 100) -> bytes:
    """Return a file for ``-kernel``.

    :param disks: how many disks must agree, 1 to 4.
    :param pace_ms: how long it rests between two rounds, in milliseconds, rounded up to ticks of the BIOS (55 ms);
        0 makes it never rest.
    :raises ValueError: where ``disks`` is out of range, or the listing is wrong.
    """
    if not 1 <= disks <= DISKS_MAX:
        raise ValueError(f"the firmware guest works with 1 to {DISKS_MAX} disks, not {disks}")
    parameters = {
        "disks": disks,
        "disks_end": 0x80 + disks,
        "letters_end": ord("a") + disks,
        "ticks": -(-pace_ms // TICK_MS),
    }
    return assemble(LISTING.read_text(), parameters)


def assemble(listing: str, parameters: Mapping[str, int]) -> bytes:
    """Return the bytes that the listing stands for, zeros in its gaps, ``FILE_BYTES`` long.

    :raises ValueError: where a token is none, a label is unknown, a jump too far, or the program too long.
    """
    labels = {name: address for address, name in _walk(listing) if name.endswith(":")}
    image = bytearray(FILE_BYTES)
    for address, token in _walk(listing):
        if token.endswith(":"):
            continue
        data = _encode(token, address, labels, parameters)
        if address + len(data) > FILE_BYTES - 512:
            raise ValueError(f"the program does not fit: {token} at {address:#x}")
        image[address : address + len(data)] = data
    return bytes(image)


def _walk(listing: str) -> Iterator[tuple[int, str]]:
    """Yield every token with its address; a label keeps its colon."""
    address = 0
    for line in listing.splitlines():
        for token in _TOKEN.findall(_without_comment(line)):
            if token.startswith("@"):
                address = int(token[1:], 16)
                continue
            yield address, token
            address += _size(token)


def _without_comment(line: str) -> str:
    return re.sub(r'("[^"]*")|;.*', lambda match: match[1] or "", line)


def _size(token: str) -> int:
    if token.startswith('"'):
        return len(token) - 2
    if token.endswith(":"):
        return 0
    kind, colon, _ = token.partition(":")
    return _WIDTH[kind] if colon else 1


def _encode(token: str, address: int, labels: Mapping[str, int], parameters: Mapping[str, int]) -> bytes:
    if token.startswith('"'):
        return token[1:-1].encode("ascii")
    kind, colon, name = token.partition(":")
    if not colon:
        return bytes([int(token, 16)])
    width = _WIDTH[kind]
    try:
        if kind in ("byte", "word"):
            return parameters[name].to_bytes(width, "little")
        base, _, less = name.partition("_less_")
        target = labels[base + ":"] - int(less or "0", 16)
        if kind == "at":
            return target.to_bytes(width, "little")
        return (target - address - width).to_bytes(width, "little", signed=True)
    except (KeyError, OverflowError) as error:
        raise ValueError(f"{token} at {address:#x}: {error}") from error
