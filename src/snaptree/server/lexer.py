"""JSON's tokens exactly as QEMU cuts them, as tables and regular expressions.  Not for: putting tokens together.

The states and the steps between them are those of QEMU's ``qobject/json-lexer.c`` (4.0 and later); a state that keeps
itself is passed by a regular expression instead of byte by byte.  QEMU departs from RFC 8259 in these places:
``'strings'``, the escape ``\\'``, modified UTF-8 (``C0 80`` is U+0000); and ``0e5`` is three tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, cast

# States.  START is between two tokens; RECOVERY skips what follows an error.
START: Final = 0
RECOVERY: Final = 1
DQ_STRING: Final = 2
DQ_ESCAPE: Final = 3
SQ_STRING: Final = 4
SQ_ESCAPE: Final = 5
SIGN: Final = 6
ZERO: Final = 7
DIGITS: Final = 8
MANTISSA: Final = 9
MANTISSA_DIGITS: Final = 10
EXP_E: Final = 11
EXP_SIGN: Final = 12
EXP_DIGITS: Final = 13
KEYWORD: Final = 14
STATES: Final = 15

# What a step leads to where it leads to no state.
TOKEN: Final = 0x20
"""A token ends with this byte."""
TOKEN_BEFORE: Final = 0x21
"""A token ended before this byte, which begins what comes next."""
START_BEFORE: Final = 0x22
"""What was skipped ended before this byte, which begins what comes next."""
ERROR: Final = 0x23
"""This byte cannot be; it belongs to the error."""


def _steps(otherwise: int, *ranges: tuple[Iterable[int], int]) -> bytes:
    """Return one row of the table: what each byte leads to; a later range goes before an earlier one."""
    row = bytearray([otherwise]) * 256
    for some, step in ranges:
        for byte in some:
            row[byte] = step
    return bytes(row)


_DIGIT = b"0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_IN_STRING = range(0x20, 0xFE)

STEPS: Final[tuple[bytes, ...]] = (
    _steps(
        ERROR,
        (b" \t\r\n", START),
        (b"{}[]:,", TOKEN),
        (b'"', DQ_STRING),
        (b"'", SQ_STRING),
        (b"-", SIGN),
        (b"0", ZERO),
        (b"123456789", DIGITS),
        (_LOWER, KEYWORD),
    ),
    # Structural bytes and line ends are where a sender may have begun anew; control bytes, FE and FF are how a client
    # forces the parser into a known state (QEMU's docs/interop/qmp-spec, "Notes to client implementers").
    _steps(RECOVERY, (range(0x20), START_BEFORE), (b"\xfe\xff{}[]:,", START_BEFORE), (b"\t", RECOVERY)),
    _steps(ERROR, (_IN_STRING, DQ_STRING), (b"\\", DQ_ESCAPE), (b'"', TOKEN)),
    _steps(ERROR, (_IN_STRING, DQ_STRING)),
    _steps(ERROR, (_IN_STRING, SQ_STRING), (b"\\", SQ_ESCAPE), (b"'", TOKEN)),
    _steps(ERROR, (_IN_STRING, SQ_STRING)),
    _steps(ERROR, (b"0", ZERO), (b"123456789", DIGITS)),
    _steps(TOKEN_BEFORE, (_DIGIT, ERROR), (b".", MANTISSA)),
    _steps(TOKEN_BEFORE, (_DIGIT, DIGITS), (b"eE", EXP_E), (b".", MANTISSA)),
    _steps(ERROR, (_DIGIT, MANTISSA_DIGITS)),
    _steps(TOKEN_BEFORE, (_DIGIT, MANTISSA_DIGITS), (b"eE", EXP_E)),
    _steps(ERROR, (_DIGIT, EXP_DIGITS), (b"+-", EXP_SIGN)),
    _steps(ERROR, (_DIGIT, EXP_DIGITS)),
    _steps(TOKEN_BEFORE, (_DIGIT, EXP_DIGITS)),
    _steps(TOKEN_BEFORE, (_LOWER, KEYWORD)),
)
"""``STEPS[state][byte]`` is the next state, or TOKEN, TOKEN_BEFORE, START_BEFORE or ERROR."""


def _quoted(quote: bytes) -> bytes:
    """Return the pattern of what stands inside a string."""
    # Possessive, or a match of n escapes would keep n places to come back to: a gigabyte for a string of 16 MiB.
    plain = rb"[^" + quote + rb"\\\x00-\x1f\xfe\xff]*+"
    return plain + rb"(?:\\[\x20-\xfd]" + plain + rb")*+"


_DQ = _quoted(b'"')
_SQ = _quoted(b"'")

Run = Callable[[bytes, int], "re.Match[bytes]"]
"""Matches always, be it nothing."""

RUNS: Final = {
    state: cast("Run", re.compile(pattern).match)
    for state, pattern in (
        (START, rb"[ \t\r\n]*+"),
        (RECOVERY, rb"[^\x00-\x08\x0a-\x1f\xfe\xff{}\[\]:,]*+"),
        (DQ_STRING, _DQ),
        (SQ_STRING, _SQ),
        (DIGITS, rb"[0-9]*+"),
        (MANTISSA_DIGITS, rb"[0-9]*+"),
        (EXP_DIGITS, rb"[0-9]*+"),
        (KEYWORD, rb"[a-z]*+"),
    )
}
"""For each state that keeps itself: passes the bytes that do so."""

_STRING = b'"' + _DQ + b"\"|'" + _SQ + b"'"
_INTEGER = rb"-?(?:0|[1-9][0-9]*+)"
_EXPONENT = rb"[eE][+-]?[0-9]++"

# Kinds of tokens: the numbers of TOKENS' groups.
PUNCTUATION: Final = 1
STRING: Final = 2
FLOAT: Final = 3
INTEGER: Final = 4
WORD: Final = 5

TOKENS: Final = re.compile(
    rb"[ \t\r\n]*+(?:([{}\[\]:,])|("
    + _STRING
    + rb")|("
    + (_INTEGER + rb"\.[0-9]++(?:" + _EXPONENT + rb")?|-?[1-9][0-9]*+" + _EXPONENT)
    + rb")|("
    + _INTEGER
    + rb")|([a-z]++))"
).finditer
"""The tokens of bytes that the steps have accepted."""

WHOLE_TOKEN: Final = re.compile(
    rb"[ \t\r\n]*+(?:([{}\[\]:,])|" + _STRING + rb"|" + _INTEGER + rb"(?=[^0-9.eE])|[a-z]++(?=[^a-z]))"
).match
"""White space and one token of which it is certain here where it ends; a shortcut past the steps.

Group 1 is there where the token is punctuation.
"""
