"""The supervisor's QMP session to QEMU.  Not for: what the commands mean, nor bytes (``client``).

QEMU serves one client at a QMP socket and answers commands in order, so while a ``snapshot-save`` runs, which
blocks QEMU's main loop, every other command waits for it.  There is no time limit on an answer.

QEMU reads a command byte by byte, with a system call for each, which takes it 5 to 7 us (``monitor_can_read`` says 1;
measured with 7.2 and 10.0).  So what is sent in a pause is short, what QEMU need not have yet is sent behind what it
shall begin with, and a command whose time will come can be read ahead.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from qemu.qmp import ConnectError, QMPError, Runstate

from ..model.errors import ProtocolError, QEMUFailed, QEMUGone, UsageError
from ..model.names import printable
from .client import Client

Event = dict[str, Any]
Reply = dict[str, Any]
Answered = Callable[[Reply | QEMUGone], None]
"""Called with QEMU's reply, or with the error that there will be none."""

GREETING_TIMEOUT_S = 5.0
"""QEMU greets at once, or, while another client holds the socket, not at all."""
MESSAGE_MAX_BYTES = 64 << 20
"""QEMU's MAX_TOKEN_SIZE."""

log = logging.getLogger(__name__)


def compact(message: Mapping[str, object]) -> bytes:
    """Return a message as QEMU reads it."""
    return json.dumps(message, separators=(",", ":")).encode()


class Session:
    """An open QMP session.

    :ivar greeting: QEMU's greeting.
    :ivar closed: set once the connection has ended, however.
    """

    def __init__(self, address: str, on_event: Callable[[Event], None], greeted: Callable[[], None]) -> None:
        self._client = Client(self._arrived, greeted)
        self._address = address
        self._on_event = on_event
        self._waiting: dict[str | None, tuple[Mapping[str, object], Answered]] = {}  # in QEMU's order
        self._expected: list[tuple[Callable[[Event], bool], asyncio.Future[Event]]] = []
        # QEMU may send the next client what the last one, now dead, was still owed: no id of ours comes twice.
        prefix = base64.urlsafe_b64encode(os.urandom(3)).decode()
        self._ids = (f"{prefix}{number}" for number in itertools.count(1))
        self._ahead = b""  # the beginning of a command, which QEMU has
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._fd_turn = asyncio.Lock()
        self._answered = asyncio.Event()
        self.closed = asyncio.Event()
        self.greeting: dict[str, Any] = {}
        self._state_task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        address: str,
        on_event: Callable[[Event], None],
        *,
        greeted: Callable[[], None] = lambda: None,
        timeout_s: float | None = GREETING_TIMEOUT_S,
    ) -> Session:
        """Connect to QEMU's QMP socket and negotiate.

        :param address: ``unix:PATH``, ``PATH`` or ``tcp:HOST:PORT``.
        :param on_event: called in the event loop for every event, in order, and before the return of any
            command that QEMU answered after it.
        :param greeted: called once QEMU has said its greeting.  A QEMU that is just starting has its RAM then, answers
            no command yet, and needs about as long again until it does.
        :param timeout_s: how long QEMU may take to greet; ``None`` where it is just starting.
        :raises QEMUGone: where nobody listens there.
        :raises ProtocolError: where another client holds the socket, or the peer doesn't speak QMP.
        """
        session = cls(address, on_event, greeted)
        client = session._client
        try:
            await asyncio.wait_for(client.connect(parse_address(address)), timeout_s)
        except TimeoutError:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await client.disconnect()
            raise ProtocolError(
                f"QEMU's QMP socket {address} accepts, but says nothing for {timeout_s:.0f} s:"
                " another client holds it, or QEMU is stopped (SIGSTOP) or very busy.",
                "End that client (QEMU serves one at a time), or start QEMU with a second -qmp socket for snaptree.",
            ) from None
        except ConnectError as error:
            cause = error.exc
            if isinstance(cause, OSError):
                # asyncio has words of its own in place of the system's.
                why = os.strerror(cause.errno) if cause.errno else str(cause)
                raise QEMUGone(
                    f"Nobody answers at QEMU's QMP socket {address}: {why}.",
                    f"Start QEMU with -qmp {address},server=on,wait=off, or give the address that it has.",
                ) from error
            raise ProtocolError(
                f"What listens at {address} does not speak QMP: {cause}.", "Give QEMU's -qmp socket."
            ) from error
        if client.greeting is not None:
            session.greeting = dict(client.greeting._raw)
        session._state_task = asyncio.create_task(session._watch_state(), name="qmp-state")
        return session

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a QMP command and return its value.

        :raises QEMUFailed: where QEMU answers with an error; the message holds its words.
        :raises QEMUGone: where the connection ends before the answer.
        """
        return _value(command, await self.pass_on(_message(command, arguments)))

    def begin(self, command: str, arguments: Mapping[str, object] | None = None) -> asyncio.Task[Any]:
        """As :meth:`execute`, but it is under way at once."""
        message = _message(command, arguments)
        reply = self._sent(message, compact) if self._may_send.is_set() else self.pass_on(message)

        async def value() -> Any:
            return _value(command, await reply)

        return asyncio.create_task(value())

    def read_ahead(self, command: str, arguments: Mapping[str, object]) -> None:
        """Let QEMU read the beginning of the command that comes next, so that it needs only the end of it then.

        Nothing depends on it: where another command comes next, QEMU refuses this one, as it has no whole arguments.
        QEMU forgets it when the connection ends (``monitor_qmp_event``).

        :param arguments: the first of its arguments; more will follow.
        """
        if not self._may_send.is_set() or self._ahead:
            return
        beginning = compact(_message(command, arguments)).removesuffix(b"}}") + b","
        with contextlib.suppress(QMPError):
            self._client.send_line(beginning)
            self._ahead = beginning

    async def pass_on(
        self,
        message: Mapping[str, object],
        *,
        write: Callable[[Mapping[str, object]], bytes] = compact,
        fd: int | None = None,
    ) -> Reply:
        """Send a command as it is and return QEMU's reply as it is, both without ``id``.

        :param write: turns the message into bytes.
        :param fd: a descriptor that goes with it (``getfd``, ``add-fd``); it stays the caller's to close.
        :raises QEMUGone: where the connection ends before the answer.
        """
        if fd is None:
            await self._may_send.wait()
            return await self._sent(message, write)
        async with self._fd_turn:
            # The descriptor travels with a byte of its own, past what still waits to be sent: so nothing may wait.
            self._may_send.clear()
            try:
                while self._waiting and not self.closed.is_set():
                    self._answered.clear()
                    await self._answered.wait()
                try:
                    self._client.send_fd_scm(fd)
                except (QMPError, OSError) as error:
                    raise self._gone(message) from error
                return await self._sent(message, write)
            finally:
                self._may_send.set()

    def ask(
        self,
        message: Mapping[str, object],
        answered: Answered,
        *,
        write: Callable[[Mapping[str, object]], bytes] = compact,
    ) -> bool:
        """Do what :meth:`pass_on` does without a task: send at once, and call ``answered`` as soon as QEMU answers.

        :return: false where a descriptor has its turn just now; then nothing was sent, and ``pass_on`` waits for it.
        """
        if not self._may_send.is_set():
            return False
        self._send(message, write, answered)
        return True

    def expect(self, chosen: Callable[[Event], bool]) -> asyncio.Future[Event]:
        """Return what becomes the first event from now on that ``chosen`` says yes to.

        It fails with QEMUGone where the connection ends before.
        """
        found: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._expected.append((chosen, found))
        return found

    def _sent(
        self, message: Mapping[str, object], write: Callable[[Mapping[str, object]], bytes]
    ) -> asyncio.Future[Reply]:
        """Send a message; return what becomes the reply."""
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answered(reply: Reply | QEMUGone) -> None:
            if waiting.done():
                return  # whoever asked has gone
            if isinstance(reply, QEMUGone):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

        self._send(message, write, answered)
        return waiting

    def _send(
        self, message: Mapping[str, object], write: Callable[[Mapping[str, object]], bytes], answered: Answered
    ) -> None:
        id = next(self._ids)
        line = write({**message, "id": id})
        if len(line) > MESSAGE_MAX_BYTES:
            # QEMU's answer, which it would follow by an error about the rest of the message.
            answered({"error": {"class": "GenericError", "desc": "JSON token size limit exceeded"}})
            return
        try:
            if self._ahead and line.startswith(self._ahead):
                line, self._ahead = line[len(self._ahead) :], b""
            self._refuse_ahead()
            self._client.send_line(line)
        except QMPError:
            answered(self._gone(message))
            return
        self._waiting[id] = message, answered

    def _refuse_ahead(self) -> None:
        """Let QEMU refuse what it has read ahead, where something else comes next."""
        if self._ahead:
            self._ahead, id = b"", next(self._ids)
            with contextlib.suppress(QMPError):
                self._client.send_line(b'"not-now":true},"id":"%s"}' % id.encode())
                self._waiting[id] = {}, lambda reply: None

    def _arrived(self, message: dict[str, Any]) -> None:
        """Give an event or a reply to whom it belongs."""
        if "event" in message:
            self._on_event(message)
            self._tell(message)
            return
        id = message.pop("id", None)
        if id is None and "error" in message:
            # QEMU's answer to what it could not read, and it answers in order.
            id = next(iter(self._waiting), None)
        waiting = self._waiting.pop(id, None)
        if waiting is None:
            log.warning("QEMU answered what nobody asked: %s", printable(str(message), 200))
            return
        waiting[1](message)
        self._answered.set()

    def _tell(self, event: Event) -> None:
        """Give an event to those who expect it."""
        for expected in [expected for expected in self._expected if expected[1].done() or expected[0](event)]:
            self._expected.remove(expected)
            if not expected[1].done():
                expected[1].set_result(event)

    def _gone(self, message: Mapping[str, object]) -> QEMUGone:
        command = printable(str(message.get("execute", "")))
        return QEMUGone(f"QEMU's QMP connection {self._address} ended before the answer to {command}.")

    async def close(self) -> None:
        """End the session; QEMU goes on."""
        if self._state_task is not None:
            self._state_task.cancel()
            await asyncio.gather(self._state_task, return_exceptions=True)
        await self._end()

    async def _watch_state(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        await self._end()

    async def _end(self) -> None:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        self.closed.set()
        waiting = [*self._waiting.values()]
        self._waiting.clear()
        for message, answered in waiting:
            answered(self._gone(message))
        for _, found in self._expected:
            if not found.done():
                found.set_exception(QEMUGone(f"QEMU's QMP connection {self._address} has ended."))
        self._expected.clear()
        self._answered.set()


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


def _message(command: str, arguments: Mapping[str, object] | None) -> dict[str, object]:
    return {"execute": command} if arguments is None else {"execute": command, "arguments": arguments}


def _value(command: str, reply: Reply) -> Any:
    """:raises QEMUFailed: where the reply to ``command`` is an error."""
    if "error" in reply:
        raise QEMUFailed(f"QEMU's answer to {command}: {_sentence(str(reply['error'].get('desc', '')))}")
    return reply.get("return")


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
