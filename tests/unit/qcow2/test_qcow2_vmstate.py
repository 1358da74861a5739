"""The head of a VM state, from bytes."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import CutShort, DamagedImage, UnsupportedImage
from snaptree.qcow2.vmstate import IGNORE_SHARED, RamBlock, VMStateHead, parse_head, read_head

rule = settings(derandomize=True, deadline=None, max_examples=3 * settings().max_examples)

START = b"QEVM\0\0\0\3"
NAMES = st.text(st.characters(codec="ascii"), max_size=40)
BLOCKS = st.lists(st.builds(RamBlock, NAMES, st.integers(1, 2**30).map(lambda pages: pages * 4096)), max_size=8)


def subsection(name: str, fields: bytes) -> bytes:
    return bytes([5, len(name)]) + name.encode() + struct.pack(">I", 1) + fields


def capabilities(*names: str) -> bytes:
    items = b"".join(bytes([len(name)]) + name.encode() for name in names)
    return subsection("configuration/capabilities", struct.pack(">I", len(names)) + items)


def configuration(machine: str, *subsections: bytes) -> bytes:
    return b"\7" + struct.pack(">I", len(machine)) + machine.encode() + b"".join(subsections)


def ram(blocks: list[RamBlock], *, addresses: bool = False, flag: int = 4) -> bytes:
    stream = b"\1" + struct.pack(">I", 2) + b"\3ram" + struct.pack(">II", 0, 4)
    stream += struct.pack(">Q", sum(block.size for block in blocks) | flag)
    for block in blocks:
        stream += bytes([len(block.name)]) + block.name.encode() + struct.pack(">Q", block.size)
        stream += bytes(8) if addresses else b""
    return stream


@rule
@given(machine=NAMES, shared=st.booleans(), page_bits=st.booleans(), uuid=st.booleans(), blocks=BLOCKS)
def test_a_head_says_what_was_written_into_it(
    machine: str, shared: bool, page_bits: bool, uuid: bool, blocks: list[RamBlock]
) -> None:
    parts = []
    if page_bits:
        parts.append(subsection("configuration/target-page-bits", struct.pack(">I", 12)))
    if shared:
        parts.append(capabilities(IGNORE_SHARED))
    if uuid:
        parts.append(subsection("configuration/uuid", bytes(16)))
    found = parse_head(START + configuration(machine, *parts) + ram(blocks, addresses=shared))
    assert found == VMStateHead(machine, frozenset({IGNORE_SHARED} if shared else ()), tuple(blocks))


@rule
@given(st.binary(max_size=300))
def test_any_bytes_make_a_head_or_an_image_error(raw: bytes) -> None:
    for data in (raw, START + raw, START + configuration("pc", capabilities("x")) + raw, START + ram([]) + raw):
        with suppress(ImageError):
            parse_head(data)


@rule
@given(at=st.integers(0, 150), value=st.integers(0, 255))
def test_one_wrong_byte_makes_a_head_or_an_image_error(at: int, value: int) -> None:
    stream = START + configuration("pc", capabilities(IGNORE_SHARED)) + ram([RamBlock("pc.ram", 4096)], addresses=True)
    data = bytearray(stream.ljust(151, b"\0"))
    data[at] = value
    with suppress(ImageError):
        parse_head(bytes(data))


def test_a_stream_without_configuration_has_no_machine() -> None:
    block = RamBlock("pc.ram", 4096)
    assert parse_head(START + ram([block])) == VMStateHead("", frozenset(), (block,))


def test_what_stands_before_the_ram_is_gone_over() -> None:
    block = RamBlock("pc.ram", 4096)
    early = b"\4\0\0\0\1\x05early" + bytes(70_000) + b"\x7e\0\0\0\1"
    unknown = subsection("configuration/new", b"\3ram" + struct.pack(">II", 0, 4) + b"\5\4")
    stream = START + configuration("pc", unknown) + early + ram([block])
    asked = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return stream[offset : offset + length]

    assert read_head(read) == VMStateHead("pc", frozenset(), (block,))
    assert asked == [(0, 4096), (0, 65536), (0, 1048576)]


def test_the_search_for_the_ram_ends_after_1_mib() -> None:
    asked = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return (START + configuration("pc")).ljust(length, b"\1")

    with pytest.raises(DamagedImage, match="no RAM section"):
        read_head(read)
    assert asked == [4096, 65536, 1048576]


def test_a_stream_that_ends_in_its_head_is_damage() -> None:
    stream = START + configuration("pc")
    with pytest.raises(CutShort):
        read_head(lambda offset, length: stream[offset : offset + length])


@pytest.mark.parametrize(
    "stream",
    [b"QEVM\0\0\0\2", START + configuration("pc", capabilities("mapped-ram")) + ram([])],
    ids=["old", "mapped"],
)
def test_what_is_unknown_is_unsupported_and_no_damage(stream: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        parse_head(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"QEVX\0\0\0\3",
        START + b"\7" + struct.pack(">I", 2**32 - 1),
        START + configuration("pc", subsection("configuration/capabilities", struct.pack(">I", 2**32 - 1) + b"\1x")),
        START + ram([], flag=0),
        START + ram([RamBlock("pc.ram", 4096)])[:-8] + struct.pack(">Q", 8192),
        START + ram([RamBlock("pc.ram", 4096)])[:-8] + struct.pack(">Q", 0),
    ],
    ids=["magic", "machine", "capabilities", "flag", "block too large", "blocks too small"],
)
def test_a_head_that_contradicts_itself_is_damage(stream: bytes) -> None:
    with pytest.raises(DamagedImage):
        parse_head(stream)
