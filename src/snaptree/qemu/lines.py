"""QEMU's lines as they arrive, each decoded and handed over at once.  Not for: connecting, or what the lines say."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16


class Lines(asyncio.BufferedProtocol):
    """Takes the place of a stream's protocol for what comes in; for all else that one stays.

    A stream wakes a task for each line, in a turn of the event loop of its own, and that is a good part of what passing
    a small command costs.

    :param limit_bytes: the longest line; a longer one ends the connection, as does one that is no JSON object.
    """

    def __init__(self, stream: asyncio.Protocol, arrived: Callable[[dict[str, Any]], None], limit_bytes: int) -> None:
        self._stream = stream
        self._arrived = arrived
        self._limit_bytes = limit_bytes
        self._held = bytearray()
        # One buffer for all: asyncio would take 256 KiB of fresh memory for every read, and give it back.
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    @classmethod
    async def take_over(
        cls,
        reader: asyncio.StreamReader,
        transport: asyncio.WriteTransport,
        arrived: Callable[[dict[str, Any]], None],
        limit_bytes: int,
    ) -> None:
        """Hand over what comes, first out of the stream, then past it; return when the connection has ended.

        :raises OSError: where the connection broke.
        """
        stream = transport.get_protocol()
        assert isinstance(stream, asyncio.Protocol)
        lines = cls(stream, arrived, limit_bytes)
        while data := await reader.read(CHUNK_BYTES):
            if not lines.understood(data):
                return
            if len(data) < CHUNK_BYTES:
                # Now the stream holds nothing, and nothing can come in between.
                transport.set_protocol(lines)
                break
        await reader.read(1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over the lines that end in what came."""
        if not self.understood(bytes(self._buffer[:nbytes])):
            self._stream.eof_received()

    def understood(self, data: bytes) -> bool:
        """Hand over the lines that end in ``data``; log, and say, where one is no line of QMP."""
        try:
            self.take(data)
        except ValueError as error:
            log.error("QEMU said what is no line of QMP: %s", error)
            return False
        return True

    def take(self, data: bytes) -> None:
        """Hand over the lines that end in ``data``.

        :raises ValueError: where one is no JSON object, or too long.
        """
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._held += data
            if len(self._held) > self._limit_bytes:
                raise ValueError(f"a line of more than {self._limit_bytes} bytes")
            return
        whole = self._held + data[:end] if self._held else data[:end]
        self._held = bytearray(data[end:])
        for line in whole.splitlines():
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("it is no object")
            self._arrived(message)

    def eof_received(self) -> bool | None:
        """Tell the stream."""
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the stream."""
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the stream."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Tell the stream."""
        self._stream.resume_writing()
