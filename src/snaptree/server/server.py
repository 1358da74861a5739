"""The QMP server: who listens, who is connected, and events for all.  Not for: what one client says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.vm import VM
from ..model.errors import Refused
from ..qemu.launch import listen
from . import listeners
from .encode import encode, event
from .session import ClientSession

log = logging.getLogger(__name__)

BACKLOG = 64
ACCEPT_AGAIN_S = 1.0


class Server:
    """Serves one VM to any number of clients.

    :ivar quit_asked: a client has asked QEMU to quit.
    """

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.quit_asked = False
        self._clients: set[ClientSession] = set()
        self._tcp: list[asyncio.Server] = []
        self._listeners: list[tuple[socket.socket, Path]] = []
        vm.publish = self.publish

    async def listen(self, path: Path) -> None:
        """Serve at a Unix socket that only its owner can use."""
        server = listen(path)
        server.listen(BACKLOG)
        server.setblocking(False)
        self._listeners.append((server, path))
        asyncio.get_running_loop().add_reader(server.fileno(), self._accept, server)

    async def listen_too(self, addresses: Sequence[listeners.Address], tls: listeners.TLSFiles | None) -> None:
        """Serve at further addresses.

        :raises Refused, UsageError: where one of them can't be had.
        """
        for address in addresses:
            if address.path is None:
                self._tcp.append(await listeners.serve_tcp(address, tls, self._adopt))
                continue
            try:
                listeners.check_path(address.path)
                await self.listen(address.path)
            except OSError as error:
                raise Refused(f"{address} cannot be listened at: {error.strerror}.", "Choose another path.") from error

    def tcp_addresses(self) -> list[listeners.Address]:
        """Return where TCP clients come in; the port 0 has become the one that the kernel chose."""
        names = [listener.getsockname() for tcp in self._tcp for listener in tcp.sockets]
        return [listeners.Address(host=name[0], port=name[1]) for name in names]

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Send an event of ours to every client."""
        self._broadcast(event(name, data))

    def broadcast(self, event: dict[str, Any]) -> None:
        """Send an event of QEMU's to every client that has negotiated."""
        self._broadcast(encode(event))

    def _broadcast(self, line: bytes) -> None:
        for client in list(self._clients):
            client.send_event(line)

    async def close(self) -> None:
        """Stop listening, and end every session once what it was told has been sent."""
        loop = asyncio.get_running_loop()
        for server, path in self._listeners:
            loop.remove_reader(server.fileno())
            server.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self._listeners.clear()
        for tcp in self._tcp:
            tcp.close()
        await asyncio.gather(*(client.close() for client in list(self._clients)), return_exceptions=True)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # Without descriptors (EMFILE) the client would be reported again at once, and so on without end.
            log.warning("a client could not be accepted: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(server.fileno())
            loop.call_later(ACCEPT_AGAIN_S, self._accept_again, server)
            return
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            log.warning("refused a client of the uid %d (pid %d)", uid, pid)
            connection.close()
            return
        self._adopt(connection, describe_client(pid, uid))

    def _accept_again(self, server: socket.socket) -> None:
        if server.fileno() >= 0:
            asyncio.get_running_loop().add_reader(server.fileno(), self._accept, server)

    def _adopt(self, connection: socket.socket, who: str) -> asyncio.Event:
        """Serve a connected socket; the event is set once the session has ended."""
        ended = asyncio.Event()

        def done(client: ClientSession) -> None:
            self._clients.discard(client)
            ended.set()

        client = ClientSession(self.vm, connection, who, self)
        self._clients.add(client)
        client.start(done)
        return ended


def describe_client(pid: int, uid: int) -> str:
    """Return who a client is, for history and logs: user, program, pid."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        program = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        program = "?"
    program = "".join(c for c in program if c.isprintable())
    return f"{user} {program}[{pid}]"
