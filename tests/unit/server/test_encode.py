"""Lines are written as QEMU writes them, however deep and odd the value."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from snaptree.server.encode import encode, encode_compactly, error_reply, event, return_reply
from snaptree.server.framer import Framer, Message
from snaptree.server.parser import Huge


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"return": {}, "id": [1, None, True]}, b'{"return": {}, "id": [1, null, true]}'),
        ("ü🎉\x7f\0\n\\u00fc\"/'", b'"\\u00FC\\uD83C\\uDF89\\u007F\\u0000\\n\\\\u00fc\\"/\'"'),
        ("\ud800x\udcff", b'"\\uFFFDx\\uFFFD"'),
        (2**64 - 1, b"18446744073709551615"),
        (0.1, b"0.1"),
        (Huge("1E400"), b"1E400"),
        ({"id": [Huge("-" + "9" * 5000)]}, b'{"id": [-' + b"9" * 5000 + b"]}"),
        ((1, ()), b"[1, []]"),
    ],
)
def test_a_value_is_one_line_of_ascii_as_qemu_writes_it(value: object, line: bytes) -> None:
    assert encode(value) == line + b"\r\n"


def test_a_number_that_is_none_is_written_as_valid_json() -> None:
    assert [json.loads(encode(value)) for value in (math.inf, -math.inf, math.nan)] == [math.inf, -math.inf, None]


def test_a_value_may_be_nested_thousands_deep() -> None:
    value: dict[str, Any] = {"name": "ü", "children": []}
    for _ in range(10_000):
        value = {"name": "ü", "children": [value, 1.5, {}]}
    line = encode(value)
    assert line.count(b'"children": [') == 10_001
    assert line.startswith(b'{"name": "\\u00FC", "children": [{"name": ')
    assert line.endswith(b'"children": []}, 1.5, {}]}' + b", 1.5, {}]}" * 9_999 + b"\r\n")


def test_deep_and_flat_values_are_written_alike() -> None:
    value = {"a": [1, "b", {"c": None, "d": [True, 0.5]}, []], "e": {}}
    deep: Any = math.inf
    assert encode([value, deep]) == b"[" + encode(value)[:-2] + b", 1e999]\r\n"


def test_the_same_value_twice_is_no_circle_and_a_circle_is_refused() -> None:
    shared = [math.inf]
    assert encode([shared, shared]) == b"[[1e999], [1e999]]\r\n"
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="holds itself"):
        encode(circle)


def test_what_is_no_json_value_is_refused() -> None:
    for value in (object(), [math.inf, object()], {"a": math.inf, 1: 2}):
        with pytest.raises(TypeError):
            encode(value)


@pytest.mark.parametrize(
    "value",
    [
        {"execute": "x", "arguments": {"a": ["ü€🎉", "\x7f\0\n", 1.5, -(2**63), 1e22, True, None]}},
        [Huge("1E400"), "ü"],
        json.loads("[" * 900 + "]" * 900),
    ],
    ids=["plain", "huge", "deep"],
)
def test_what_goes_to_qemu_reads_back_the_same_and_grows_as_little_as_can_be(value: object) -> None:
    data = encode_compactly(value)
    (frame,) = Framer().feed(data)
    assert isinstance(frame, Message)
    assert repr(frame.value) == repr(value)
    assert len(data) <= len(encode(value))
    assert encode_compactly("ü" * 100) == b'"' + "ü".encode() * 100 + b'"'


def test_replies_have_an_id_exactly_if_the_request_had_one() -> None:
    assert return_reply(True) == b'{"return": true}\r\n'
    assert return_reply({}, id=None) == b'{"return": {}, "id": null}\r\n'
    assert error_reply("GenericError", "no") == b'{"error": {"class": "GenericError", "desc": "no"}}\r\n'
    assert json.loads(error_reply("CommandNotFound", "no", "x", {"code": "y"})) == {
        "error": {"class": "CommandNotFound", "desc": "no", "code": "y"},
        "id": "x",
    }


def test_an_event_has_its_time_in_seconds_and_microseconds() -> None:
    assert json.loads(event("SNAPSHOT_CREATED", {"name": "a"}, 1_700_000_000_123_456_789)) == {
        "timestamp": {"seconds": 1_700_000_000, "microseconds": 123_456},
        "event": "SNAPSHOT_CREATED",
        "data": {"name": "a"},
    }
