"""A small blocking QMP client for the supervisor's socket.  Not for: QEMU's own, which the supervisor holds.

Its answers are one line each.  It imports little, because it is part of every command's start.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from ..model.errors import NotReady, ProtocolError, QEMUFailed, SnaptreeError, UsageError, VMNotRunning, from_code
from ..model.names import printable
from ..model.reason import Reason

LINE_MAX_BYTES = 64 << 20
"""Far more than any answer; a supervisor drops a client that leaves 16 MiB unread."""


class Client:
    """A negotiated connection; a context manager that closes it.

    :ivar events: every event that came, oldest first.
    """

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._path = path
        self._commands = 0
        self.events: list[dict[str, Any]] = []

    @classmethod
    def connect(cls, path: str | os.PathLike[str], timeout_s: float | None = None) -> Client:
        """Connect to a supervisor and negotiate.

        :param timeout_s: how long each step up to negotiation may take; afterwards an answer may take any time.
        :raises VMNotRunning: where nobody listens.
        :raises ProtocolError: where the peer is another user's, or no supervisor.
        """
        path = os.fspath(path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        client = None
        try:
            connection.settimeout(timeout_s)
            try:
                connection.connect(path)
            except (BlockingIOError, TimeoutError) as error:  # EAGAIN: its queue is full (connect(2), of Unix sockets)
                raise _silent(path) from error
            except OSError as error:
                raise VMNotRunning(
                    f"Nobody serves at {printable(path, 200)}: {error.strerror or error}.",
                    "`snaptree vms` shows what runs.",
                ) from error
            _check_peer(connection, path)
            client = cls(connection, path)
            if "QMP" not in client._receive():
                raise ProtocolError(
                    f"What listens at {printable(path, 200)} is no QMP server.", "`snaptree vms` shows what runs."
                )
            client.execute("qmp_capabilities")
            connection.settimeout(None)
        except BaseException:
            if client is not None:
                client.close()
            connection.close()
            raise
        return client

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a command and return its value; events that come before the answer go to :attr:`events`.

        :raises SnaptreeError: of the class that the server's error names.
        :raises QEMUFailed: where the error is QEMU's own.
        :raises UsageError: where an argument is no text.
        :raises ProtocolError: where the connection ends before the answer.
        """
        self._commands += 1
        message: dict[str, object] = {"execute": command, "id": self._commands}
        if arguments:
            _check_text(arguments.values())
            message["arguments"] = dict(arguments)
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error
        while True:
            reply = self._receive()
            if "event" in reply:
                self.events.append(reply)
            elif reply.get("id", self._commands) != self._commands:
                continue  # the answer to a command whose caller was interrupted
            elif "error" in reply:
                raise _error(command, reply["error"])
            elif "return" in reply:
                return reply["return"]

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        """Return the next line's object."""
        try:
            line = self._file.readline(LINE_MAX_BYTES)
        except TimeoutError as error:
            raise _silent(self._path) from error
        except OSError as error:
            raise self._ended() from error
        if not line.endswith(b"\n"):
            raise self._ended() if len(line) < LINE_MAX_BYTES else self._no_json(f"more than {LINE_MAX_BYTES} bytes")
        try:
            reply = json.loads(line)
        except RecursionError:
            reply = _deep(line)
        except ValueError as error:
            raise self._no_json(str(error)) from error
        if not isinstance(reply, dict):
            raise self._no_json("it is no object")
        return reply

    def _ended(self) -> ProtocolError:
        return ProtocolError(
            f"The connection {printable(self._path, 200)} ended before the answer.",
            "`snaptree vms` shows what runs; supervisor.log in the VM's folder says why.",
        )

    def _no_json(self, why: str) -> ProtocolError:
        return ProtocolError(
            f"An answer from {printable(self._path, 200)} is no line of JSON: {why}.", "Is it a supervisor's socket?"
        )


def _silent(path: str) -> ProtocolError:
    return ProtocolError(
        f"The supervisor that listens at {printable(path, 200)} does not answer.",
        "It may be stopped (SIGSTOP) or very busy: `snaptree vms` shows its pid; see what it does, and try again.",
    )


def _check_peer(connection: socket.socket, path: str) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", raw)[1]
    if uid not in (0, os.geteuid()):
        raise ProtocolError(
            f"The socket {printable(path, 200)} is served by the user with the uid {uid}, not by you.",
            "Set XDG_RUNTIME_DIR or SNAPTREE_HOME to directories of your own.",
        )


def _check_text(values: Iterable[object]) -> None:
    """:raises UsageError: where the command line held bytes that are no UTF-8; JSON has no way to say them."""
    for value in values:
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise UsageError(f"{printable(value)} holds bytes that are no UTF-8.", "Give it in UTF-8.")


def _deep(line: bytes) -> object:
    """Return a value that is too deep for Python's decoder, a tree of thousands of snapshots in one line."""
    from ..server.framer import Framer, Limits, Message  # noqa: PLC0415  rare

    frames = Framer(Limits(LINE_MAX_BYTES, tokens=LINE_MAX_BYTES, nesting=LINE_MAX_BYTES)).feed(line)
    return frames[0].value if len(frames) == 1 and isinstance(frames[0], Message) else None


def _error(command: str, value: object) -> SnaptreeError:
    """Return the error of an answer: ours has a code, else it is QEMU's."""
    found: Mapping[str, Any] = value if isinstance(value, dict) else {}
    if "code" not in found:
        words = "".join(c if c.isprintable() else " " for c in str(found.get("desc", ""))).strip()
        return QEMUFailed(f"QEMU's answer to {command}: {words}{'' if words.endswith(('.', '!', '?')) else '.'}")
    error = from_code(str(found["code"]), str(found.get("message", "")), str(found.get("remedy", "")))
    reasons = found.get("reasons")
    if isinstance(error, NotReady) and isinstance(reasons, list):
        error.reasons = tuple(_reason(reason) for reason in reasons if isinstance(reason, dict))
    return error


def _reason(value: Mapping[str, Any]) -> Reason:
    device = value.get("device")
    return Reason(
        str(value.get("code", "")),
        str(value.get("message", "")),
        str(value.get("remedy", "")),
        None if device is None else str(device),
    )
