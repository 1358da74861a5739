"""Whatever comes, and however it is cut: the same frames, no exception, bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaptree.server.encode import encode
from snaptree.server.framer import Frame, Framer, Garbage, Limits, Message

PIECES = [
    *(bytes([byte]) for byte in b"{}[]:,\"'\\ \n\t-+.eE0159a%@\x00\x01\x7f\x80\xc3\xfe\xff"),
    *(b"true", b"nul", b"\\u", b"\\ud83c", b"\\udf89", b"\xc0\x80", b"\xc3\xbc", b"\xf0\x9f\x8e\x89", b"\xef\xbf\xbf"),
    *(b'{"execute": "x", "id": 1}', b"{'a': ['b']}", b'"id":', b'{"a":', b"[1, 2.5, 1e999]", b"123456789012345678901"),
]
streams = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)), max_size=30).map(b"".join)
limits = st.one_of(st.none(), st.builds(Limits, st.integers(1, 40), st.integers(1, 20), st.integers(1, 5)))
# Category Cn holds the noncharacters, which QEMU takes in no form.
texts = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def cut(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


def frames_of(chunks: Iterator[bytes], limits: Limits | None = None) -> list[Frame]:
    framer = Framer(limits)
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def seen(frames: list[Frame]) -> list[str]:
    """Return frames in a form in which infinite numbers and 1 and 1.0 are what they are."""
    return [repr(frame) for frame in frames]


@settings(max_examples=5 * settings().max_examples)
@given(streams, st.lists(st.integers(0, 20), max_size=20), limits)
def test_any_cut_of_any_stream_gives_the_same_frames(stream: bytes, sizes: list[int], limits: Limits | None) -> None:
    whole = seen(frames_of(iter([stream]), limits))
    assert seen(frames_of(cut(stream, sizes), limits)) == whole
    assert seen(frames_of((stream[i : i + 1] for i in range(len(stream))), limits)) == whole


@settings(max_examples=3 * settings().max_examples)
@given(st.binary(max_size=400), limits)
def test_no_stream_raises_and_every_error_has_qemu_s_form(stream: bytes, limits: Limits | None) -> None:
    for frame in frames_of(iter([stream]), limits):
        if isinstance(frame, Garbage):
            assert frame.desc.startswith(("JSON parse error, ", "JSON token ", "JSON nesting "))
        else:
            assert frame.raw in stream


@settings(max_examples=2 * settings().max_examples)
@given(streams)
def test_a_client_that_sends_ff_and_a_line_end_is_always_understood_again(stream: bytes) -> None:
    framer = Framer()
    framer.feed(stream)
    framer.feed(b"\xff\n")
    assert framer.feed(b'{"execute": "x"}') == [Message({"execute": "x"}, b'{"execute": "x"}')]


@settings(max_examples=2 * settings().max_examples)
@given(st.lists(json_values, max_size=4), st.booleans(), st.booleans())
def test_what_python_writes_is_read_as_it_was(values: list[object], ascii: bool, spaced: bool) -> None:
    separators = None if spaced else (",", ":")
    lines = [json.dumps(value, ensure_ascii=ascii, separators=separators) + "\n" for value in values]
    frames = frames_of(iter(["".join(lines).encode()]))
    found = [frame.value for frame in frames if isinstance(frame, Message)]
    assert [json.dumps(value) for value in found] == [json.dumps(value) for value in values]


@settings(max_examples=3 * settings().max_examples)
@given(json_values)
def test_what_we_write_is_read_as_it_was(value: object) -> None:
    line = encode(value)
    assert line.endswith(b"\r\n")
    assert line.isascii()
    assert line.count(b"\n") == 1
    (frame,) = frames_of(iter([line]))
    assert isinstance(frame, Message)
    assert json.dumps(frame.value) == json.dumps(value)
    assert encode(frame.value) == line


@settings(max_examples=2 * settings().max_examples)
@given(json_values)
def test_both_ways_through_the_parser_see_the_same(value: object) -> None:
    text = json.dumps([value]).encode()
    # A single-quoted string is beyond Python's decoder, so this goes through ours.
    (ours,) = frames_of(iter([b"['x', " + text + b"]"]))
    (python,) = frames_of(iter([b'["x", ' + text + b"]"]))
    assert isinstance(ours, Message)
    assert isinstance(python, Message)
    assert repr(ours.value) == repr(python.value)


@pytest.mark.parametrize(
    "flood",
    [b'{"a": "' + b"x" * 1000, b"[" * 100, b"[1, ", b" ", b"[ ", b"1", b"a", b'["\\u00', b"[0.1", b"\xff"],
    ids=repr,
)
def test_a_stream_without_an_end_holds_no_more_than_its_limits(flood: bytes) -> None:
    limit, rounds = 1 << 11, 10
    framer = Framer(Limits(limit, 1 << 10, 1 << 6))
    rest = (b"x" if b'"' in flood else flood[-1:]) * 1024
    framer.feed(flood)
    tracemalloc.start()
    try:
        for _ in range(rounds):
            framer.feed(rest)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * limit < rounds * len(rest)
