"""The head of a VM state: what QEMU wrote it, with which capabilities, of which RAM.  Not for: the devices in it.

A VM state is a migration stream (QEMU's migration/savevm.c)::

    "QEVM"  u32 version 3
    u8 7    u32 length, the machine type's name
            then subsections: u8 5, u8 length, "configuration/…", u32 version, fields
    u8 1    u32 section, u8 length, "ram", u32 instance 0, u32 version 4
            u64 total | 4, then until the lengths make up the total:
            u8 length, the block's name, u64 its length in bytes, with x-ignore-shared also u64 address

All numbers are big endian.  Machine types before QEMU 2.4 write no configuration.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from .errors import CutShort, DamagedImage, UnsupportedImage

IGNORE_SHARED = "x-ignore-shared"

_MAPPED_RAM = "mapped-ram"
_FILE_VERSION = 3  # QEMU_VM_FILE_VERSION
_SECTION_START, _SUBSECTION, _CONFIGURATION = 0x01, 0x05, 0x07
_RAM_SAVE_FLAG_MEM_SIZE = 0x04
_RAM_FLAGS = 0xFFF  # a RAM block's length is a multiple of the host's page
_RAM_SECTION = b"\x03ram" + struct.pack(">II", 0, 4)
_UUID_BYTES = 16
_MAX_MACHINE_NAME = 1024

_FIRST_READ = 4 * 1024  # a head has some hundred bytes, but where a device's section comes first
_MAX_HEAD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A RAM block: QEMU's name for it, for example ``pc.ram``, and its length in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class VMStateHead:
    """What the head of a VM state says.

    :param machine: the machine type's name, for example ``pc-i440fx-7.2``; empty where it is not recorded.
    :param capabilities: the migration capabilities that QEMU records; with IGNORE_SHARED among them the RAM that
        is shared is not in the VM state.
    :param ram_blocks: all RAM blocks, those that the VM state leaves out too.
    """

    machine: str
    capabilities: frozenset[str]
    ram_blocks: tuple[RamBlock, ...]


def read_head(read: Callable[[int, int], bytes]) -> VMStateHead:
    """Return what the head of a VM state says.

    :param read: returns that many bytes (second argument) of the stream from an offset (first argument) on;
        fewer where it ends before.
    :raises UnsupportedImage: where the stream is of another version, or keeps RAM in another way.
    :raises DamagedImage: where it is no such stream, or contradicts itself, or its head is longer than 1 MiB.
    """
    length = _FIRST_READ
    while True:
        data = read(0, length)
        try:
            return parse_head(data)
        except CutShort:
            if len(data) < length or length >= _MAX_HEAD:
                raise
            length = min(length * 16, _MAX_HEAD)


def parse_head(data: bytes) -> VMStateHead:
    """Return what the head of the VM state that ``data`` begins with says.

    :raises CutShort: where ``data`` ends before the head does.
    :raises UnsupportedImage: and DamagedImage, as read_head.
    """
    cursor = _Cursor(data)
    if cursor.take(4) != b"QEVM":
        raise DamagedImage("Its VM state does not begin as QEMU's do.")
    if (version := cursor.u32()) != _FILE_VERSION:
        raise UnsupportedImage(f"Its VM state has version {version}; only {_FILE_VERSION} is known.")
    machine, capabilities = "", frozenset[str]()
    if cursor.peek() == _CONFIGURATION:
        machine, capabilities = _configuration(cursor)
    if _MAPPED_RAM in capabilities:
        raise UnsupportedImage(f"Its VM state was made with the capability {_MAPPED_RAM}.")
    _seek_ram(cursor)
    return VMStateHead(machine, capabilities, _ram_blocks(cursor, IGNORE_SHARED in capabilities))


class _Cursor:
    """A position in bytes; every step that goes behind their end raises CutShort."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise CutShort("Its VM state ends inside its head.", needed=end)
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def peek(self) -> int:
        (value,) = self.take(1)
        self.at -= 1
        return value

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def text(self, length: int) -> str:
        return self.take(length).decode("utf-8", "surrogateescape")


def _configuration(cursor: _Cursor) -> tuple[str, frozenset[str]]:
    """Read the configuration section: the machine type's name, and the recorded capabilities."""
    cursor.take(1)
    length = cursor.u32()
    if length > _MAX_MACHINE_NAME:
        raise DamagedImage(f"Its VM state has a machine type's name of {length} bytes.")
    machine = cursor.text(length)
    capabilities: frozenset[str] = frozenset()
    while cursor.peek() == _SUBSECTION:
        cursor.take(1)
        name = cursor.text(cursor.u8())
        cursor.take(4)
        if name == "configuration/target-page-bits":
            cursor.take(4)
        elif name == "configuration/capabilities":
            capabilities = frozenset(cursor.text(cursor.u8()) for _ in range(cursor.u32()))
        elif name == "configuration/uuid":
            cursor.take(_UUID_BYTES)
        else:
            break  # of unknown length; the search for RAM goes over it
    return machine, capabilities


def _seek_ram(cursor: _Cursor) -> None:
    """Go to what the RAM's section holds.

    Up to QEMU 10.0 it is always next.  But priorities may put a device's section before it, and a later QEMU may
    record more in its configuration; neither says how long it is, so the RAM's section is searched for.
    """
    found = cursor.at
    while (found := cursor.data.find(_RAM_SECTION, found + 1)) >= 0:
        start = found - 5
        if start >= cursor.at and cursor.data[start] == _SECTION_START:
            cursor.at = found + len(_RAM_SECTION)
            return
    raise CutShort("Its VM state has no RAM section at its head.", needed=len(cursor.data) + 1)


def _ram_blocks(cursor: _Cursor, with_address: bool) -> tuple[RamBlock, ...]:
    """Read the list of RAM blocks."""
    total = cursor.u64()
    if total & _RAM_FLAGS != _RAM_SAVE_FLAG_MEM_SIZE:
        raise DamagedImage(f"Its VM state's RAM section begins with {total:#x}, and not with the RAM's size.")
    left = total & ~_RAM_FLAGS
    blocks = []
    while left:
        name = cursor.text(cursor.u8())
        size = cursor.u64()
        if size > left:
            raise DamagedImage("Its VM state's RAM blocks are larger than all its RAM.")
        if with_address:
            cursor.take(8)
        blocks.append(RamBlock(name, size))
        left -= size
    return tuple(blocks)
