"""A small blocking QMP client for tests.  Not for: the product, whose own client must not test itself."""

from __future__ import annotations

import itertools
import json
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .waiting import TIMEOUT_S, wait_until

Message = dict[str, Any]


class QMPError(Exception):
    """An error reply.

    :ivar error_class: QEMU's class, for example ``GenericError``.
    :ivar desc: its words.
    """

    def __init__(self, command: str, reply: Message) -> None:
        super().__init__(f"{command}: {reply['error']}")
        self.reply = reply
        self.error_class: str = reply["error"]["class"]
        self.desc: str = reply["error"]["desc"]


class QMPClient:
    """A connection.

    :ivar greeting: the server's greeting.
    :ivar events: every event so far, in order.
    """

    def __init__(
        self,
        path: Path,
        *,
        negotiate: bool = True,
        timeout_s: float = TIMEOUT_S,
        broken: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Connect to the Unix socket ``path`` as soon as somebody listens there.

        :param broken: returns why nobody will ever listen there.
        :raises AssertionError: where nobody does in time.
        """
        self.events: list[Message] = []
        self._ids = itertools.count(1)
        self._replies: dict[int, Message] = {}
        self._buffer = b""
        self._timeout_s = timeout_s
        self._path = path
        self._socket = wait_until(lambda: _connect(path), f"a QMP server at {path}", timeout_s=timeout_s, broken=broken)
        try:
            self._socket.settimeout(timeout_s)
            self.greeting = self.receive()
            if negotiate:
                self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._socket.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run a command and return its ``return``.

        :raises QMPError: for an error reply.
        """
        return self.reply(command, self.send(command, arguments))

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor and return its text."""
        text = self.execute("human-monitor-command", {"command-line": line})
        assert isinstance(text, str)
        return text

    def send(self, command: str, arguments: Mapping[str, Any] | None = None) -> int:
        """Send a command without waiting; return its id for ``reply``."""
        number = next(self._ids)
        message: Message = {"execute": command, "id": number}
        if arguments is not None:
            message["arguments"] = dict(arguments)
        self.send_bytes(json.dumps(message).encode())
        return number

    def reply(self, command: str, number: int) -> Any:
        """Wait for the reply to a command that was sent, and return its ``return``.

        :raises QMPError: for an error reply.
        """
        while number not in self._replies:
            self._sort(self.receive())
        reply = self._replies.pop(number)
        if "error" in reply:
            raise QMPError(command, reply)
        return reply["return"]

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._socket.fileno()

    def has_reply(self, number: int) -> bool:
        """Take in what has arrived, without waiting; say whether the reply to a command that was sent is there.

        :raises AssertionError: where the server closed the connection.
        """
        while number not in self._replies and (b"\n" in self._buffer or select.select([self], [], [], 0)[0]):
            self._sort(self.receive())
        return number in self._replies

    def wait_event(self, name: str, since: int = 0, **data: Any) -> Message:
        """Return the first event of this name, at or after ``events[since]``, whose data hold all of ``data``."""
        seen = since
        while True:
            for event in self.events[seen:]:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    return event
            seen = len(self.events)
            self._sort(self.receive())

    def send_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._socket.sendall(data)

    def receive(self) -> Message:
        """Return the next message, whatever it is.

        :raises AssertionError: where none comes in time, or the server closed the connection.
        """
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise AssertionError(f"no message came from {self._path} for {self._timeout_s:g} s") from error
            except ConnectionResetError:
                data = b""
            assert data, f"the server at {self._path} closed the connection"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict), line
        return message

    def _sort(self, message: Message) -> None:
        if "event" in message:
            self.events.append(message)
            return
        assert "id" in message, f"a reply to nothing that was sent: {message}"
        self._replies[message["id"]] = message


def _connect(path: Path) -> socket.socket | None:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    except BaseException:
        client.close()
        raise
    return client
