"""QMP's lines: values in, bytes out, as QEMU writes them.  Not for: what is answered.

One line of ASCII that ends in CR LF, escapes in upper case, whatever the depth.  Numbers are written so that they
read back as the same double (QEMU's ``%.17g`` is longer and reads back the same).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .parser import Huge

_encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode
_encode_compactly = json.JSONEncoder(
    check_circular=False, allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode
_ESCAPE = re.compile(r"\\(?:u([dD][89abAB]..)\\u([dD][c-fC-F]..)|u(....)|.)")
_END: Final = b"\r\n"
ABSENT: Final = object()
"""An id that the request didn't have; ``None`` is an id."""


def encode(value: object) -> bytes:
    """Return ``value`` as a line.

    :raises TypeError: where it is no JSON value.
    :raises ValueError: where it holds itself.
    """
    try:
        text = _encode(value)
    except (ValueError, RecursionError):
        # An infinite number, or too deep for Python's encoder.
        text = "".join(_pieces(value))
    if "\\u" in text:
        text = _ESCAPE.sub(_as_qemu, text)
    if "\x7f" in text:
        text = text.replace("\x7f", "\\u007F")
    return text.encode("ascii") + _END


def encode_compactly(value: object) -> bytes:
    """Return ``value`` as QEMU reads it, not longer than it came: what fitted into QEMU's limit must go on fitting.

    :raises TypeError: where it is no JSON value.
    """
    try:
        return _encode_compactly(value).encode()
    except (ValueError, RecursionError):
        return encode(value)


def return_reply(value: object, id: object = ABSENT) -> bytes:
    """Return the line of a success."""
    return encode(_with_id({"return": value}, id))


def error_reply(error_class: str, desc: str, id: object = ABSENT, members: Mapping[str, object] | None = None) -> bytes:
    """Return the line of a failure.

    :param members: more members of the error object, beside QMP's two.
    """
    return encode(_with_id({"error": {"class": error_class, "desc": desc, **(members or {})}}, id))


def event(name: str, data: Mapping[str, object], at_ns: int | None = None) -> bytes:
    """Return the line of an event.

    :param at_ns: when it happened, nanoseconds since the epoch; by default now.
    """
    seconds, rest_ns = divmod(time.time_ns() if at_ns is None else at_ns, 10**9)
    timestamp = {"seconds": seconds, "microseconds": rest_ns // 1000}
    return encode({"timestamp": timestamp, "event": name, "data": dict(data)})


def _with_id(reply: dict[str, object], id: object) -> dict[str, object]:
    return reply if id is ABSENT else {**reply, "id": id}


def _as_qemu(escape: re.Match[str]) -> str:
    """Write an escape in upper case; a lone surrogate, which QMP cannot carry, as U+FFFD."""
    leading, trailing, single = escape.groups()
    if leading:
        return f"\\u{leading.upper()}\\u{trailing.upper()}"
    if not single:
        return escape[0]
    return "\\uFFFD" if 0xD800 <= int(single, 16) < 0xE000 else f"\\u{single.upper()}"


def _pieces(value: object) -> Iterator[str]:
    """Yield the text of a value of any depth, without recursion."""
    inside: set[int] = set()
    open_containers: list[tuple[Iterator[tuple[str, object]], str, int]] = [(iter([("", value)]), "", 0)]
    while open_containers:
        members, end, identity = open_containers[-1]
        for before, item in members:
            if not isinstance(item, dict | list | tuple):
                yield before + _scalar(item)
                continue
            if id(item) in inside:
                raise ValueError("the value holds itself")
            inside.add(id(item))
            begin, end = "{}" if isinstance(item, dict) else "[]"
            yield before + begin
            open_containers.append((_members(item), end, id(item)))
            break
        else:
            yield end
            open_containers.pop()
            inside.discard(identity)


def _members(container: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, object]]:
    """Yield what stands before each value of a container, and the value."""
    comma = ""
    if isinstance(container, dict):
        for key, item in container.items():
            if not isinstance(key, str):
                raise TypeError(f"a key is no string: {key!r}")
            yield f"{comma}{_encode(key)}: ", item
            comma = ", "
    else:
        for item in container:
            yield comma, item
            comma = ", "


def _scalar(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        if isinstance(value, Huge):
            return value.text
        # Valid JSON that reads back as infinite; there is none that reads back as no number.
        return "null" if math.isnan(value) else f"{'-' * (value < 0)}1e999"
    return _encode(value)
