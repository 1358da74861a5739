"""QEMU's lines are handed over however they are cut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.lines import Lines

MESSAGES = st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3), max_size=5)


def lines(limit_bytes: int = 1000) -> tuple[Lines, list[dict[str, Any]]]:
    """Return what is tested, and where the messages go."""
    arrived: list[dict[str, Any]] = []
    return Lines(asyncio.Protocol(), arrived.append, limit_bytes), arrived


@given(MESSAGES, st.sampled_from(["\n", "\r\n"]), st.data())
def test_any_cut_gives_the_same_messages_in_order(
    messages: list[dict[str, Any]], end: str, data: st.DataObject
) -> None:
    stream = "".join(json.dumps(message, ensure_ascii=False) + end for message in messages).encode()
    taker, arrived = lines(len(stream))
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        taker.take(stream[at : at + size])
        at += size
    assert arrived == messages


def test_a_line_is_handed_over_as_soon_as_its_end_is_here() -> None:
    taker, arrived = lines()
    taker.take(b'{"a": 1}\r')
    assert arrived == []
    taker.take(b'\n{"b"')
    assert arrived == [{"a": 1}]


@pytest.mark.parametrize("line", [b"x\n", b"[]\n", b"\n", b'{"a": 1} {"b": 2}\n', b'"\xff"\n'], ids=repr)
def test_what_is_no_object_is_an_error(line: bytes) -> None:
    taker, arrived = lines()
    with pytest.raises(ValueError):  # noqa: PT011  json's own, or ours
        taker.take(line)
    assert arrived == []


def test_an_endless_line_is_an_error() -> None:
    taker, _ = lines(100)
    taker.take(b'"' + b"x" * 99)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        taker.take(b"x")
