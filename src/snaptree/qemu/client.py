"""qemu.qmp's client, as the session needs it; only the session uses both.  Not for: who waits for which answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from qemu.qmp import Message, QMPClient, QMPError, Runstate
from qemu.qmp.models import Greeting

from .lines import Lines

ANSWER_MAX_BYTES = 1 << 30
"""qemu.qmp's own limit of 10 MiB would end the session over a monitor command that prints much (``xp``)."""


class Client(QMPClient):
    """qemu.qmp's client, which hands over what arrives at once, and sends at once.

    By itself it prints every message for a debug log that nobody reads, and takes it through queues of its own, which
    costs more than QEMU's own work on a small command; and an error without an id, QEMU's answer to what it cannot
    read, ends its connection.
    """

    def __init__(self, arrived: Callable[[dict[str, Any]], None], greeted: Callable[[], None]) -> None:
        super().__init__("snaptree", ANSWER_MAX_BYTES)
        self._greeted = greeted
        self._unsent: list[bytes] = []
        self.logger.setLevel(logging.CRITICAL)  # it logs what it also raises
        self._arrived = arrived

    def send_line(self, line: bytes) -> None:
        """Send a message, together with those that are given in the same turn of the event loop.

        QEMU's thread for QMP wakes up for each that comes by itself, and on a busy host takes our core for it.

        :raises QMPError: where the connection has ended.
        """
        if self.runstate is not Runstate.RUNNING or self._writer is None:
            raise QMPError("not connected")
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(line)

    def _flush(self) -> None:
        lines, self._unsent = self._unsent, []
        if self._writer is not None:
            self._writer.write(b"".join(lines))

    async def _get_greeting(self) -> Greeting:
        greeting = await super()._get_greeting()
        self._greeted()
        return greeting

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    async def _bh_recv_message(self) -> None:
        assert self._reader is not None
        assert self._writer is not None
        await Lines.take_over(self._reader, self._writer.transport, self._arrived, ANSWER_MAX_BYTES)
        raise EOFError
