"""Plays a case at a QMP socket and returns the replies.  Not for: what they should be.

A case ends with a command whose id is ours, so nothing waits for time to pass; what a case sends must leave the
parser where a line end and a new message are understood.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

Reply = dict[str, Any]

TIMEOUT_S = 60.0
END_ID = "end-of-case"
_END = b'\n{"execute": "qmp_capabilities", "id": "' + END_ID.encode() + b'"}\n'


def play(path: Path, send: bytes, *, negotiated: bool = True, size: int | None = None) -> list[Reply]:
    """Connect, send, and return the replies without what differs from time to time.

    :param negotiated: negotiate first.
    :param size: send so many bytes at a time; by default all at once.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        with connection.makefile("rb") as lines:
            greeting = _read(lines.readline())
            assert set(greeting) == {"QMP"}, greeting
            if negotiated:
                connection.sendall(b'{"execute": "qmp_capabilities"}')
                assert _read(lines.readline()) == {"return": {}}
            stream = send + _END
            for begin in range(0, len(stream), size or len(stream)):
                connection.sendall(stream[begin : begin + (size or len(stream))])
            replies = []
            while (reply := _read(lines.readline())).get("id") != END_ID:
                replies.append(reply)
    return [normalised(reply) for reply in replies if "event" not in reply]


def normalised(reply: Reply) -> Reply:
    """Return a reply with QMP's own members only: our server's errors have more."""
    if "error" not in reply:
        return reply
    return {**reply, "error": {key: reply["error"][key] for key in ("class", "desc")}}


def _read(line: bytes) -> Reply:
    """Return the reply of a line, which must be one line as QEMU writes it."""
    assert line.endswith(b"\r\n"), f"no line of QMP: {line!r}"
    assert line.isascii(), f"not escaped: {line!r}"
    reply = json.loads(line)
    assert isinstance(reply, dict)
    return reply
