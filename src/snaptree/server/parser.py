"""From the bytes of one JSON message to its value, or to QEMU's words about it.  Not for: finding where it ends.

What is plain JSON goes through Python's own decoder; everything that this decoder and QEMU's
``qobject/json-parser.c`` see differently goes through ours, which has QEMU's rules and texts, and does not recurse.
"""

from __future__ import annotations

import json
import math
import re
from enum import Enum, auto
from typing import Any, Final, NoReturn

from . import lexer

MESSAGE_MAX: Final = 1023
"""QEMU cuts its words there (``parse_error()``'s ``message[1024]``)."""

_UNSURE = re.compile(r"\\u(?:[dD][89a-fA-F]|[fF][dDfF])").search
"""Escapes that may be surrogates or noncharacters; QEMU takes no lone ones of the former and none of the latter."""
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17)) + "]"
).search
_FOUR_DIGITS = re.compile(rb"[0-9a-fA-F]{4}").match
_SEQUENCE = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|[\x80-\xbf\xfe\xff]"
)
_ESCAPES = {b'"': '"', b"'": "'", b"\\": "\\", b"/": "/", b"b": "\b", b"f": "\f", b"n": "\n", b"r": "\r", b"t": "\t"}
_WORDS = {b"true": True, b"false": False, b"null": None}


class Garbled(ValueError):
    """The message is no JSON; the text is QEMU's."""


class Huge(float):
    """A number beyond the range of a double: infinite as a value, with its text, so that it can go back as it came.

    :ivar text: as the sender wrote it.
    """

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Huge:
        """Make it from a JSON number."""
        number = super().__new__(cls, -math.inf if text.startswith("-") else math.inf)
        number.text = text
        return number

    text: str


class _NotPlain(ValueError):
    """Python's decoder would take it, and QEMU's may not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotPlain  # QEMU: "duplicate key"
    return found


def _float(text: str) -> float:
    if text.startswith(("0e", "0E", "-0e", "-0E")):
        raise _NotPlain  # QEMU's lexer has no exponent after a bare zero
    return _double(text)


def _double(text: str) -> float:
    number = float(text)
    return Huge(text) if math.isinf(number) else number


def _constant(text: str) -> NoReturn:
    raise _NotPlain  # NaN, Infinity: not JSON


decode: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant).raw_decode
"""``decode(text, index)`` returns a value and where it ends, for the JSON that Python and QEMU see alike.

:raises ValueError, RecursionError: where the text is not that, or not all of it; ``parse`` knows which.
"""


def plain_text(data: bytes) -> str | None:
    """Return the text for ``decode``, or ``None`` where QEMU may see it differently."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if ("\\u" in text and _UNSURE(text)) or not (text.isascii() or _NONCHARACTER(text) is None):
        return None
    return text


def parse(raw: bytes) -> object:
    """Return the value of one message: tokens that ``lexer`` accepts, up to where the brackets are even.

    :raises Garbled: where it is no JSON as QEMU has it.
    """
    text = plain_text(raw)
    if text is not None:
        try:
            value, end = decode(text, 0)
        except (ValueError, RecursionError):
            pass
        else:
            if end == len(text):
                return value
    return parse_exactly(raw)


def lossy(data: bytes) -> str:
    """Return QEMU's reading of bytes that may be no UTF-8: U+FFFD for every sequence that is invalid."""
    try:
        text = data.decode("utf-8")
        if _NONCHARACTER(text) is None:
            return text
    except UnicodeDecodeError:
        pass
    return _SEQUENCE.sub(_replace, data).decode("utf-8")


def _replace(sequence: re.Match[bytes]) -> bytes:
    try:
        return _utf8(sequence[0]).encode()
    except Garbled:
        return b"\xef\xbf\xbd"


def garbled(message: str) -> Garbled:
    """Return the error with these words of QEMU's parser."""
    return Garbled(f"JSON parse error, {message[:MESSAGE_MAX]}")


def _utf8(data: bytes) -> str:
    try:
        # Nothing but U+0000 in modified UTF-8 holds C0.
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise garbled("invalid UTF-8 sequence in string") from None
    if not text.isascii() and _NONCHARACTER(text):
        raise garbled("invalid UTF-8 sequence in string")
    return text


def _string(token: bytes) -> str:
    """Return what a string token says."""
    if b"\\" not in token:
        return _utf8(token[1:-1])
    parts = []
    at, end = 1, len(token) - 1
    while at < end:
        escape = token.find(b"\\", at, end)
        if escape != at:
            parts.append(_utf8(token[at : end if escape < 0 else escape]))
            at = end if escape < 0 else escape
            continue
        letter = token[at + 1 : at + 2]
        if letter == b"u":
            character, at = _unicode(token, at)
            parts.append(character)
        elif letter in _ESCAPES:
            parts.append(_ESCAPES[letter])
            at += 2
        else:
            raise garbled("invalid escape sequence in string")
    return "".join(parts)


def _unicode(token: bytes, begin: int) -> tuple[str, int]:
    """Return what ``\\uXXXX`` or a pair of them says, and where it ends."""
    code, end = _hex4(token, begin + 2), begin + 6
    if 0xD800 <= code < 0xDC00 and token.startswith(b"\\u", end):
        trailing = _hex4(token, end + 2)
        if 0xDC00 <= trailing < 0xE000:
            code = 0x10000 + ((code & 0x3FF) << 10) + (trailing & 0x3FF)
            end += 6
    if code < 0 or 0xD800 <= code < 0xE000 or _NONCHARACTER(chr(code)):
        raise garbled(f"{lossy(token[begin:end])} is not a valid Unicode character")
    return chr(code), end


def _hex4(token: bytes, at: int) -> int:
    digits = _FOUR_DIGITS(token, at)
    return int(digits[0], 16) if digits else -1


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:  # Python converts no more than 4,300 digits
        return Huge(text)


def _scalar(kind: int, token: bytes) -> object:
    if kind == lexer.STRING:
        return _string(token)
    if kind == lexer.INTEGER:
        return _integer(token.decode())
    if kind == lexer.FLOAT:
        return _double(token.decode())
    if token in _WORDS:
        return _WORDS[token]
    raise garbled(f"invalid keyword '{token[:MESSAGE_MAX].decode()}'")


class _Want(Enum):
    VALUE = auto()
    FIRST = auto()  # a value, a key, or the end of an empty container
    COLON = auto()
    NEXT = auto()  # a comma, or the end of the container


def parse_exactly(raw: bytes) -> object:
    """Do what ``parse`` does without Python's decoder: as QEMU, the first error, innermost first, in its words.

    :raises Garbled: as ``parse``.
    """
    outer: list[tuple[dict[str, Any] | list[Any] | None, str | None]] = []
    holder: dict[str, Any] | list[Any] | None = None
    key: str | None = None
    want = _Want.VALUE
    value: object
    for match in lexer.TOKENS(raw):
        kind = match.lastindex or 0
        token = match[kind]
        end = b"}" if isinstance(holder, dict) else b"]"
        if want is _Want.COLON:
            if token != b":":
                raise garbled("missing : in object pair")
            want = _Want.VALUE
            continue
        if want is _Want.NEXT and token == b",":
            want = _Want.VALUE
            continue
        if want in (_Want.NEXT, _Want.FIRST) and token == end:
            value = holder
            holder, key = outer.pop()
        elif want is _Want.NEXT:
            raise garbled(f"expected separator in {'dict' if isinstance(holder, dict) else 'list'}")
        elif token in (b"{", b"["):
            outer.append((holder, key))
            holder, key, want = {} if token == b"{" else [], None, _Want.FIRST
            continue
        elif kind == lexer.PUNCTUATION:
            raise garbled("expecting value")
        else:
            value = _scalar(kind, token)
        want = _Want.NEXT
        if holder is None:
            return value
        if isinstance(holder, list):
            holder.append(value)
        elif key is None:
            if not isinstance(value, str):
                raise garbled("key is not a string in object")
            key, want = value, _Want.COLON
        elif key in holder:
            raise garbled("duplicate key")
        else:
            holder[key], key = value, None
    raise garbled("premature EOI")
