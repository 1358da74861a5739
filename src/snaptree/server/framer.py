"""QMP's frames: bytes in as they come, messages out, with QEMU's rules and words.  Not for: what a message asks.

A frame ends where its brackets are even, not at a line's end: clients send JSON without one.  What QEMU's lexer or
parser would not take comes out as Garbage with the text that QEMU answers, and the stream goes on where QEMU's does
(``qobject/json-lexer.c``, ``json-streamer.c``).  Deliberately different in two places: white space inside a message
counts towards its size, because ``raw`` keeps it; and a stray token is quoted up to 1,023 bytes, not to its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from . import lexer
from .lexer import ERROR, RECOVERY, RUNS, START, START_BEFORE, STEPS, TOKEN, WHOLE_TOKEN
from .parser import MESSAGE_MAX, Garbled, decode, garbled, lossy, parse, plain_text

SIZE_EXCEEDED: Final = "JSON token size limit exceeded"
COUNT_EXCEEDED: Final = "JSON token count limit exceeded"
NESTING_EXCEEDED: Final = "JSON nesting depth limit exceeded"

_space = cast("Callable[[str, int], re.Match[str]]", re.compile(r"[ \t\r\n]*+").match)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a message may be; QEMU's MAX_TOKEN_SIZE, MAX_TOKEN_COUNT and MAX_NESTING.

    :param message_bytes: of one message, and of one token.
    :param tokens: in one message.
    :param nesting: open brackets.
    """

    message_bytes: int = 64 << 20
    tokens: int = 2 << 20
    nesting: int = 1 << 10


@dataclass(frozen=True, slots=True)
class Message:
    """A JSON value.

    :param raw: its bytes as they came, without white space around them.
    """

    value: object
    raw: bytes


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that is no JSON.

    :param desc: what QEMU answers to it.
    """

    desc: str


Frame = Message | Garbage


class Framer:
    """Cuts one stream of bytes.  It holds at most one message and one token, each within the limits."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._state: int = START
        self._held = bytearray()  # what came of the message in earlier chunks
        # Offsets count from the beginning of the stream.
        self._chunk = 0
        self._message = -1  # -1 between messages
        self._token = 0
        self._tokens = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that end in ``data``, which follows what was fed before."""
        frames: list[Frame] = []
        at = self._take_plain(data, frames) if self._state == START and self._message < 0 else 0
        if at < len(data):
            self._step_through(data, at, frames)
        if self._message >= 0:
            self._held += data[max(self._message - self._chunk, 0) :]
        self._chunk += len(data)
        return frames

    def _take_plain(self, data: bytes, frames: list[Frame]) -> int:
        """Take whole plain messages off the beginning, which is the usual case; return where the rest begins."""
        limits = self._limits
        if len(data) >= limits.message_bytes or len(data) > limits.tokens:
            return 0
        if data.count(b"{") + data.count(b"[") > limits.nesting:
            return 0
        text = plain_text(data)
        if text is None:
            return 0
        ascii = len(text) == len(data)
        at = 0
        while True:
            at = _space(text, at).end()
            if not text.startswith(("{", "["), at):
                break
            try:
                value, end = decode(text, at)
            except (ValueError, RecursionError):
                break
            frames.append(Message(value, data[at:end] if ascii else text[at:end].encode()))
            at = end
        return at if ascii else len(text[:at].encode())

    def _step_through(self, data: bytes, at: int, frames: list[Frame]) -> None:
        """Take the steps of QEMU's lexer."""
        chunk, end, size_max = self._chunk, len(data), self._limits.message_bytes
        state = self._state
        while True:
            run = RUNS.get(state)
            if run is not None:
                at = run(data, at).end()
            if state == START:
                if self._message >= 0 and chunk + at - self._message > size_max:
                    self._drop(Garbage(SIZE_EXCEEDED), frames)
                if at == end:
                    break
                self._token = chunk + at
                if self._message < 0:
                    self._message = self._token
                whole = WHOLE_TOKEN(data, at)
                if whole is not None and chunk + whole.end() - self._message < size_max:
                    at = whole.end()
                    self._end_token(data, at, whole[1], frames)
                    continue
            elif state != RECOVERY and chunk + at - self._token > size_max:
                # QEMU's lexer gives up in the middle of a token, and takes what follows as if it began there.
                at = self._token + size_max + 1 - chunk
                self._drop(Garbage(SIZE_EXCEEDED), frames)
                state = START
                continue
            if at == end:
                break
            step = STEPS[state][data[at]]
            if step < lexer.STATES:
                state = step
                at += 1
            elif step == START_BEFORE:
                state = START
            elif step == ERROR:
                at += 1
                self._drop(self._stray(data, at), frames)
                state = RECOVERY
            else:
                mark = None
                if step == TOKEN:
                    at += 1
                    mark = data[at - 1 : at] if state == START else None
                state = START
                self._end_token(data, at, mark, frames)
        self._state = state

    def _end_token(self, data: bytes, at: int, mark: bytes | None, frames: list[Frame]) -> None:
        """Count a token that ends before ``at``, and end the message where it is the last; ``mark`` is punctuation."""
        if mark == b"{":
            self._braces += 1
        elif mark == b"}":
            self._braces -= 1
        elif mark == b"[":
            self._brackets += 1
        elif mark == b"]":
            self._brackets -= 1
        self._tokens += 1
        limits = self._limits
        if self._chunk + at - self._message >= limits.message_bytes:
            self._drop(Garbage(SIZE_EXCEEDED), frames)
        elif self._tokens > limits.tokens:
            self._drop(Garbage(COUNT_EXCEEDED), frames)
        elif self._braces + self._brackets > limits.nesting:
            self._drop(Garbage(NESTING_EXCEEDED), frames)
        elif self._braces < 0 or self._brackets < 0 or self._braces == self._brackets == 0:
            raw = bytes(self._held + data[max(self._message - self._chunk, 0) : at])
            try:
                frame: Frame = Message(parse(raw), raw)
            except Garbled as error:
                frame = Garbage(str(error))
            self._drop(frame, frames)

    def _stray(self, data: bytes, at: int) -> Garbage:
        """Return the error of a token that cannot end in its last byte, the one before ``at``."""
        if self._token < self._chunk:
            begin = self._token - self._message
            token = bytes(self._held[begin : begin + MESSAGE_MAX]) + data[:at]
        else:
            token = data[self._token - self._chunk : at]
        # QEMU prints it as a C string, so a NUL, which can only be its last byte, is not seen.
        text = lossy(token[:MESSAGE_MAX].removesuffix(b"\0"))
        return Garbage(str(garbled(f"stray '{text}'")))

    def _drop(self, frame: Frame, frames: list[Frame]) -> None:
        """End the message with ``frame``, and be between messages."""
        frames.append(frame)
        self._held.clear()
        self._message = -1
        self._tokens = self._braces = self._brackets = 0
