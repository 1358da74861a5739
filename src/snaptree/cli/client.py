"""A small blocking QMP client for the supervisor's socket.  Not for: QEMU's own, which the supervisor holds.

Its answers are one line each.  It imports little, because it is part of every command's start.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..model.errors import NotReady, ProtocolError, QEMUFailed, SnaptreeError, VMNotRunning, from_code
from ..model.reason import Reason

LINE_MAX_BYTES = 256 << 20
"""More than any answer of a supervisor; a peer that sends more without an end is no supervisor."""


class Client:
    """A negotiated connection; a context manager that closes it.

    :ivar events: every event that came, oldest first.
    """

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._path = path
        self.events: list[dict[str, Any]] = []

    @classmethod
    def connect(cls, path: str | Path, timeout_s: float | None = None) -> Client:
        """Connect to a supervisor and negotiate.

        :param timeout_s: how long connecting and greeting may take; afterwards an answer may take any time.
        :raises VMNotRunning: where nobody listens.
        :raises ProtocolError: where the peer is another user's, or no supervisor.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        client = None
        try:
            connection.settimeout(timeout_s)
            try:
                connection.connect(os.fspath(path))
            except OSError as error:
                raise VMNotRunning(
                    f"Nobody serves at {path}: {error.strerror or error}.", "`snaptree vms` shows what runs."
                ) from error
            _check_peer(connection, os.fspath(path))
            client = cls(connection, os.fspath(path))
            if "QMP" not in client._receive():
                raise ProtocolError(f"What listens at {path} is no QMP server.", "`snaptree vms` shows what runs.")
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
        :raises ProtocolError: where the connection ends before the answer.
        """
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = dict(arguments)
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error
        while True:
            reply = self._receive()
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise _error(reply["error"])
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
        try:
            line = self._file.readline(LINE_MAX_BYTES)
        except TimeoutError as error:
            raise ProtocolError(
                f"The supervisor at {self._path} does not answer.", "See supervisor.log in the VM's folder."
            ) from error
        except OSError as error:
            raise self._ended() from error
        if not line.endswith(b"\n"):
            raise self._ended()
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"The answer from {self._path} is no JSON: {error}.") from error
        if not isinstance(reply, dict):
            raise ProtocolError(f"The answer from {self._path} is no JSON object.")
        return reply

    def _ended(self) -> ProtocolError:
        return ProtocolError(
            f"The supervisor's connection {self._path} ended before the answer.",
            "`snaptree vms` shows what runs; supervisor.log in the VM's folder says why.",
        )


def _check_peer(connection: socket.socket, path: str) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", raw)[1]
    if uid not in (0, os.geteuid()):
        raise ProtocolError(
            f"The socket {path} is served by the user with the uid {uid}, not by you.",
            "Set XDG_RUNTIME_DIR or SNAPTREE_HOME to directories of your own.",
        )


def _error(value: Mapping[str, Any]) -> SnaptreeError:
    if "code" not in value:
        return QEMUFailed(f"QEMU says: {value.get('desc', '')}")
    error = from_code(str(value["code"]), str(value.get("message", "")), str(value.get("remedy", "")))
    if isinstance(error, NotReady):
        error.reasons = tuple(Reason(**reason) for reason in value.get("reasons", ()))
    return error
