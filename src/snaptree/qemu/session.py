"""The supervisor's QMP session to QEMU; the only module that uses qemu.qmp.  Not for: what the commands mean.

QEMU serves one client at a QMP socket and answers commands in order, so while a ``snapshot-save`` runs, which
blocks QEMU's main loop, every other command waits for it.  There is no time limit on an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

from ..model.errors import ProtocolError, QEMUFailed, QEMUGone, UsageError
from ..model.names import printable

Event = dict[str, Any]

GREETING_TIMEOUT_S = 5.0
"""QEMU greets at once, or, while another client holds the socket, not at all."""

log = logging.getLogger(__name__)


class Session:
    """An open QMP session.

    :ivar greeting: QEMU's greeting.
    :ivar closed: set once the connection has ended, however.
    """

    def __init__(self, client: QMPClient, address: str, on_event: Callable[[Event], None]) -> None:
        self._client = client
        self._address = address
        self._on_event = on_event
        self._listener = client.events  # grows without bound unless somebody reads it
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._fd_turn = asyncio.Lock()
        self._answered = asyncio.Event()
        self._in_flight = 0
        self.closed = asyncio.Event()
        self.greeting: dict[str, Any] = {}
        self._pump_task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, address: str, on_event: Callable[[Event], None], *, timeout_s: float | None = GREETING_TIMEOUT_S
    ) -> Session:
        """Connect to QEMU's QMP socket and negotiate.

        :param address: ``unix:PATH``, ``PATH`` or ``tcp:HOST:PORT``.
        :param on_event: called in the event loop for every event, in order, and before the return of any
            command that QEMU answered after it.
        :param timeout_s: how long QEMU may take to greet; ``None`` where it is just starting.
        :raises QEMUGone: where nobody listens there.
        :raises ProtocolError: where another client holds the socket, or the peer doesn't speak QMP.
        """
        client = QMPClient("snaptree")
        client.logger.setLevel(logging.CRITICAL)  # it logs what it also raises
        session = cls(client, address, on_event)
        try:
            await asyncio.wait_for(client.connect(parse_address(address)), timeout_s)
        except TimeoutError:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await client.disconnect()
            raise ProtocolError(
                f"QEMU's QMP socket {address} accepts, but says nothing for {timeout_s:.0f} s:"
                " another client holds it.",
                "End that client (QEMU serves one at a time), or start QEMU with a second -qmp socket for snaptree.",
            ) from None
        except ConnectError as error:
            cause = error.exc
            if isinstance(cause, OSError):
                raise QEMUGone(
                    f"Nobody answers at QEMU's QMP socket {address}: {cause.strerror or cause}.",
                    "Start QEMU with -qmp unix:PATH,server=on,wait=off and give that PATH.",
                ) from error
            raise ProtocolError(
                f"What listens at {address} does not speak QMP: {cause}.", "Give QEMU's -qmp socket."
            ) from error
        if client.greeting is not None:
            session.greeting = dict(client.greeting._raw)
        session._pump_task = asyncio.create_task(session._pump(), name="qmp-events")
        return session

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a QMP command and return its value.

        :raises QEMUFailed: where QEMU answers with an error; the message holds its words.
        :raises QEMUGone: where the connection ends before the answer.
        """
        message: dict[str, object] = {"execute": command}
        if arguments is not None:
            message["arguments"] = dict(arguments)
        reply = await self.pass_on(message)
        if "error" in reply:
            error = reply["error"]
            raise QEMUFailed(f"QEMU's answer to {command}: {_sentence(str(error.get('desc', '')))}")
        return reply.get("return")

    async def pass_on(self, message: Mapping[str, object], *, fd: int | None = None) -> dict[str, Any]:
        """Send a command as it is and return QEMU's reply as it is, both without ``id``.

        :param fd: a descriptor that goes with it (``getfd``, ``add-fd``); it stays the caller's to close.
        :raises QEMUGone: where the connection ends before the answer.
        """
        if fd is None:
            await self._may_send.wait()
            return await self._exchange(message)
        async with self._fd_turn:
            # The descriptor travels with a byte of its own, past what still waits to be sent: so nothing may wait.
            self._may_send.clear()
            try:
                while self._in_flight and not self.closed.is_set():
                    self._answered.clear()
                    await self._answered.wait()
                try:
                    self._client.send_fd_scm(fd)
                except (QMPError, OSError) as error:
                    raise QEMUGone(f"QEMU's QMP connection {self._address} has ended.") from error
                return await self._exchange(message)
            finally:
                self._may_send.set()

    async def _exchange(self, message: Mapping[str, object]) -> dict[str, Any]:
        self._in_flight += 1
        try:
            reply: dict[str, Any] = {"return": await self._client.execute_msg(Message(message))}
        except ExecuteError as error:
            reply = dict(error.received)
            reply.pop("id", None)
        except (ExecInterruptedError, QMPError, OSError, EOFError) as error:
            raise QEMUGone(
                f"QEMU's QMP connection {self._address} ended before the answer to"
                f" {printable(str(message.get('execute', '')))}."
            ) from error
        finally:
            self._in_flight -= 1
            self._answered.set()
            self.deliver()
        return reply

    def deliver(self) -> None:
        """Hand over every event that has arrived."""
        for event in self._listener.clear():
            self._on_event(dict(event))

    async def close(self) -> None:
        """End the session; QEMU goes on."""
        if self._pump_task is not None:
            self._pump_task.cancel()
            await asyncio.gather(self._pump_task, return_exceptions=True)
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        self.closed.set()

    async def _pump(self) -> None:
        waiting = asyncio.create_task(self._watch_state(), name="qmp-state")
        try:
            while True:
                event = await self._listener.get()
                self._on_event(dict(event))
        finally:
            waiting.cancel()

    async def _watch_state(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        self.deliver()
        self.closed.set()


def parse_address(address: str) -> str | tuple[str, int]:
    """Return what qemu.qmp takes for ``unix:PATH``, ``PATH`` or ``tcp:HOST:PORT``.

    :raises UsageError: where it is none of them.
    """
    if address.startswith("tcp:"):
        host, colon, port = address[4:].rpartition(":")
        if colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return host.strip("[]") or "127.0.0.1", int(port)
        raise UsageError(f"{printable(address)} is no QMP address.", "Write tcp:HOST:PORT or unix:PATH.")
    path = address.removeprefix("unix:").partition(",")[0]
    if not path:
        raise UsageError(f"{printable(address)} is no QMP address.", "Write unix:PATH or tcp:HOST:PORT.")
    return path


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
