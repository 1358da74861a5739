from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.cli.human import clean, clean_lines, clock_text, counted, date_text, duration_text, size_text, width


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_sizes_are_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0:00:00.000"),
        (15_581_999_999, "0:00:15.581"),
        (3_723_456_000_000, "1:02:03.456"),
        (10**15, "277:46:40.000"),
    ],
)
def test_a_clock_has_hours_without_bound_and_milliseconds(ns: int, text: str) -> None:
    assert clock_text(ns) == text


def test_durations_turn_to_seconds_when_milliseconds_say_nothing_more() -> None:
    durations = [duration_text(ms) for ms in (0.4, 412.3, 9999, 10000, 61_500)]
    assert durations == ["0 ms", "412 ms", "9999 ms", "10.0 s", "61.5 s"]


def test_a_date_is_to_the_second() -> None:
    assert date_text("2026-01-02T03:04:05.678Z") == "2026-01-02 03:04:05"


@given(st.text())
def test_nothing_that_a_terminal_acts_upon_is_left(text: str) -> None:
    assert clean(text).isprintable()


def test_escapes_are_shown_instead_of_obeyed() -> None:
    assert clean("a\x1b[31mb\n\x9b\u202e\udc80") == "a\\x1b[31mb\\n\\x9b\\u202e\\udc80"


def test_words_of_every_language_stay_readable() -> None:
    assert clean("vor dem Größten、全角\u3000と") == "vor dem Größten、全角  と"


def test_lines_stay_lines_where_there_is_room() -> None:
    assert clean_lines("a\n\x07b\r\nc") == ["a", "\\x07b", "c"]


def test_wide_characters_take_two_columns() -> None:
    assert (width("abc"), width("全角"), width("e\u0301")) == (3, 4, 1)


def test_counting_knows_the_plural() -> None:
    assert (counted(1, "snapshot"), counted(0, "snapshot")) == ("1 snapshot", "0 snapshots")
