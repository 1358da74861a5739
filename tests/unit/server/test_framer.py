"""QMP's frames, as QEMU makes them; every expectation here was measured on QEMU 7.2."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from snaptree.server.framer import Frame, Framer, Garbage, Limits, Message
from snaptree.server.parser import Huge


def feed(*chunks: bytes, limits: Limits | None = None) -> list[Frame]:
    framer = Framer(limits)
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def values(*chunks: bytes) -> list[object]:
    frames = feed(*chunks)
    assert all(isinstance(frame, Message) for frame in frames), frames
    return [frame.value for frame in frames if isinstance(frame, Message)]


def words(data: bytes, limits: Limits | None = None) -> list[str]:
    """Return QEMU's words about a stream, without what they all begin with, and ``ok`` for each value."""
    return [
        frame.desc.removeprefix("JSON parse error, ") if isinstance(frame, Garbage) else "ok"
        for frame in feed(data, limits=limits)
    ]


# -- where a message ends


def test_a_message_ends_with_its_last_bracket_and_needs_no_line_end() -> None:
    assert values(b'{"execute": "x"}') == [{"execute": "x"}]


def test_two_messages_need_nothing_between_them() -> None:
    assert values(b'{"a": 1}{"b": 2}') == values(b"{'a': 1}{'b': 2}") == [{"a": 1}, {"b": 2}]


def test_line_ends_inside_a_message_are_white_space() -> None:
    assert values(b'{\r\n\t"a"\n:\n1\r\n}\r\n\r\n[\n]') == [{"a": 1}, []]


def test_brackets_inside_strings_end_nothing() -> None:
    assert values(b'{"a": "}]{[\\"}"}{\'b\': \'}"\'}') == [{"a": '}]{["}'}, {"b": '}"'}]


def test_a_scalar_between_messages_is_a_message() -> None:
    assert values(b'"a" 1 -2.5e3 true null \'b\'"c"') == ["a", 1, -2500.0, True, None, "b", "c"]


def test_a_number_or_a_word_ends_only_where_something_else_begins() -> None:
    framer = Framer()
    assert framer.feed(b"12") == []
    assert framer.feed(b"3") == []
    assert framer.feed(b" ") == [Message(123, b"123")]
    assert framer.feed(b"tru") == []
    assert framer.feed(b"e{") == [Message(True, b"true")]


@pytest.mark.parametrize(
    "message",
    [
        b'{"execute": "x", "id": [1, 2.50, 1e2, 1E+2, 100000000000000000000, "\\u00fc\\n\xc3\xbc", {}, [], null]}',
        b"{'execute'\n:  'x' }",
        b'["\\ud83c\\udf89"]',
        b"[1e999]",
        b"[ ]",
    ],
)
def test_raw_is_the_message_to_the_byte(message: bytes) -> None:
    for stream in (message, b" \r\n" + message + b"\r\n", b"[]" + message + b"[]"):
        for chunks in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
            assert message in [frame.raw for frame in feed(*chunks) if isinstance(frame, Message)]


# -- values


@pytest.mark.parametrize("quote", [b'"', b"'"])
@pytest.mark.parametrize(
    ("inside", "value"),
    [
        (b"", ""),
        (b"\\u00e4\\u0000\\/\\\\\\b\\f\\n\\r\\t\\'\\\"", "ä\0/\\\b\f\n\r\t'\""),
        (b"\\ud83c\\udf89", "🎉"),
        (b"\xf0\x9f\x8e\x89\xc3\xa4\x7f", "🎉ä\x7f"),
        (b"\xc0\x80", "\0"),
        (b"%d %s", "%d %s"),
        (b"\\uD800\\uDC00\\udbff\\udffd", "\U00010000\U0010fffd"),
    ],
)
def test_strings_are_read_as_modified_utf_8_with_qemu_s_escapes(quote: bytes, inside: bytes, value: str) -> None:
    assert values(b"[" + quote + inside + quote + b"]") == [[value]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"18446744073709551615", 2**64 - 1),
        (b"100000000000000000000", 10**20),
        (b"1.0", 1.0),
        (b"0.5e-3", 0.0005),
        (b"1E5", 1e5),
    ],
)
def test_numbers_keep_their_value_and_kind(text: bytes, value: float) -> None:
    (found,) = values(b"[" + text + b"]")
    assert isinstance(found, list)
    assert found == [value]
    assert type(found[0]) is type(value)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" + "0" * 400 + ".5", "9" * 5000, "-" + "9" * 5000])
def test_a_number_beyond_a_double_keeps_its_text(text: str) -> None:
    (found,) = values(b'{"id": ' + text.encode() + b"}")
    assert isinstance(found, dict)
    number = found["id"]
    assert isinstance(number, Huge)
    assert number.text == text
    assert (number < 0) == text.startswith("-")


@pytest.mark.parametrize("deep", [900, 1023])
@pytest.mark.parametrize("slow", [b"", b"'x',"])
def test_a_message_may_be_nested_1024_deep_whatever_python_s_recursion_limit(deep: int, slow: bytes) -> None:
    def framed() -> list[object]:
        return values(b"[" + slow + b"[" * deep + b"]" * deep + b"]")

    found: Any = framed()[0]
    depth = 0
    while found:
        found, depth = found[-1], depth + 1
    assert depth == deep


def test_a_higher_recursion_limit_makes_no_message_deeper() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        assert words(b"[" * 1025 + b'"') == ["JSON nesting depth limit exceeded"]
    finally:
        sys.setrecursionlimit(before)


# -- what is no JSON, and where the stream goes on


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b",", ["expecting value"]),
        (b"}", ["expecting value"]),
        (b"{]", ["expecting value"]),
        (b"[}", ["expecting value"]),
        (b"[1,]", ["expecting value"]),
        (b'{"a":1,}', ["expecting value"]),
        (b'{"a":}', ["expecting value"]),
        (b"{[}]", ["expecting value"]),
        (b"{1:2}", ["key is not a string in object"]),
        (b'{{"a":1}:2}', ["key is not a string in object"]),
        (b'{"a"}', ["missing : in object pair"]),
        (b'{"a" 1}', ["missing : in object pair"]),
        (b'{"a":1 "b":2}', ["expected separator in dict"]),
        (b'{"a":1]}', ["expected separator in dict", "expecting value"]),
        (b"[1 2]", ["expected separator in list"]),
        (b"[0e5]", ["expected separator in list"]),
        (b'{"a":1,"a":2}', ["duplicate key"]),
        (b'{"a":1,"\\u0061":2}', ["duplicate key"]),
        (b'{"a":1,"a":[1 2]}', ["expected separator in list"]),
        (b"[nan]", ["invalid keyword 'nan'"]),
        (b"[truefalse]", ["invalid keyword 'truefalse'"]),
        (b"[" + b"x" * 3000 + b"]", ["invalid keyword '" + "x" * 1006]),
        (b"[NaN]", ["stray 'N'", "expecting value"]),
        (b"[Infinity]", ["stray 'I'", "expecting value"]),
        (b"[00]", ["stray '00'", "expecting value"]),
        (b"[-]", ["stray '-]'"]),
        (b"[1.x]", ["stray '1.x'", "expecting value"]),
        (b"[1e+]", ["stray '1e+]'"]),
        (b"[+1]", ["stray '+'", "expecting value"]),
        (b"[.5]", ["stray '.'", "expecting value"]),
        (b"[%d]", ["stray '%'", "expecting value"]),
        (b"// {}", ["stray '/'", "ok"]),
        (b'["\\x"]', ["invalid escape sequence in string"]),
        (b'["\\\xc3\xa4"]', ["invalid escape sequence in string"]),
        (b'["\\u12"]', ['\\u12" is not a valid Unicode character']),
        (b'["\\u\xc3\xbc\xc3\xbc\xc3\xbc"]', ["\\uüü is not a valid Unicode character"]),
        (b'["\\ud800"]', ["\\ud800 is not a valid Unicode character"]),
        (b'["\\ud800\\u0041"]', ["\\ud800 is not a valid Unicode character"]),
        (b'["\\udc00\\ud800"]', ["\\udc00 is not a valid Unicode character"]),
        (b'["\\ufdd0"]', ["\\ufdd0 is not a valid Unicode character"]),
        (b'["\\ud83f\\udffe"]', ["\\ud83f\\udffe is not a valid Unicode character"]),
        (b'["\x80"]', ["invalid UTF-8 sequence in string"]),
        (b'["\xc3"]', ["invalid UTF-8 sequence in string"]),
        (b'["\xc1\x81"]', ["invalid UTF-8 sequence in string"]),
        (b'["\xed\xa0\x80"]', ["invalid UTF-8 sequence in string"]),
        (b'["\xef\xbf\xbe"]', ["invalid UTF-8 sequence in string"]),
        (b'["\xf4\x90\x80\x80"]', ["invalid UTF-8 sequence in string"]),
        (b'\xff{"a":1}', ["stray '\ufffd'", "ok"]),
        (b"\xff\xff", ["stray '\ufffd'"] * 2),
        (b"\x00\x01", ["stray ''", "stray '\x01'"]),
        (b'{"a\x00', ["stray '\"a'"]),
        (b'{"x\x80\xe0\xa0 \xed\xa0\x80\xf8\x01', ["stray '\"x\ufffd\ufffd \ufffd\ufffd\x01'"]),
        (b'{"a": "\xff{"b": 1}', ["stray '\"\ufffd'", "ok"]),
        (b'{"a": "b\n{"c": 1}', ["stray '\"b\n'", "ok"]),
        (b"\xef\xbb\xbf{}", ["stray '\ufffd'", "ok"]),
        (b'@ "x" 1\t2 {}', ["stray '@'", "ok"]),
        (b'@ "x"\n1 ', ["stray '@'", "ok"]),
        (b"@,[]", ["stray '@'", "expecting value", "ok"]),
    ],
)
def test_qemu_s_words_about_what_is_no_json_and_its_way_on(stream: bytes, expected: list[str]) -> None:
    assert words(stream) == expected


def test_a_stray_token_is_quoted_up_to_a_bound() -> None:
    (found,) = words(b'["' + b"x" * 5000 + b"\n")
    assert found == "stray '\"" + "x" * (1023 - len("stray '\""))


# -- limits


def test_the_limits_are_qemu_s() -> None:
    assert Limits() == Limits(message_bytes=64 << 20, tokens=2 << 20, nesting=1024)


def test_nesting_is_limited_and_what_follows_counts_anew() -> None:
    limit = "JSON nesting depth limit exceeded"
    assert words(b"[" * 1024 + b"]" * 1024) == ["ok"]
    assert words(b"[" * 1025) == [limit]
    assert words(b"{'a':[" * 512 + b"[{}") == [limit, "ok"]
    assert words(b"[" * 1025 + b"]" * 2) == [limit, "expecting value", "expecting value"]


def test_tokens_are_limited() -> None:
    limits = Limits(tokens=7)
    assert words(b"[1,2,3]", limits) == ["ok"]
    assert words(b'["1",2]', limits) == ["ok"]
    assert words(b"[1,2,3,1{}", limits) == ["JSON token count limit exceeded", "ok"]


def test_the_bytes_of_a_message_are_limited() -> None:
    limits = Limits(message_bytes=10)
    too_large = "JSON token size limit exceeded"
    assert words(b'["345678"]', limits) == [too_large]
    assert words(b'["34567"]', limits) == ["ok"]
    assert words(b"['2',   1]", limits) == [too_large]
    assert words(b"['2',         {}", limits) == [too_large, "ok"]


def test_a_token_beyond_the_limit_is_given_up_in_its_middle() -> None:
    limits = Limits(message_bytes=10)
    # As on QEMU: "xxxxxxxxxxyyy" becomes an error after 11 bytes, and what follows is read as if it began there.
    assert words(b'"123456789ayyy {}', limits) == ["JSON token size limit exceeded", "invalid keyword 'yyy'", "ok"]


def test_white_space_between_messages_is_not_limited() -> None:
    assert words(b" " * 1000 + b"[]", Limits(message_bytes=10)) == ["ok"]
