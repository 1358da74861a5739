"""Further addresses at which a VM is served, TCP with TLS among them.  Not for: the VM's own socket.

Beyond loopback a client must show a certificate: whoever speaks QMP to a VM can do to it, and to the files that QEMU
may open, what QEMU can.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import Refused, UsageError
from ..model.names import printable
from ..places.places import check_socket_path

CHUNK_BYTES = 1 << 16
READ_TIMEOUT_S = 10.0
"""How long a client may take to read the rest once its session has ended."""

Adopt = Callable[[socket.socket, str], asyncio.Event]
"""Takes a connected socket and who the client is; returns what is set once its session has ended."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: at a Unix socket's ``path``, or at ``host`` and ``port``."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        return self.path is not None or ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files: our certificate, its key, and the authority whose clients may come in."""

    cert: Path
    key: Path
    client_ca: Path


def parse(text: str) -> Address:
    """Return the address that ``unix:PATH`` or ``tcp:HOST:PORT`` names.

    :raises UsageError: where it is none of them, or the host is no IP address of this form.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(path=check_socket_path(Path(rest).absolute()))
    if kind == "tcp":
        host, colon, port = rest.rpartition(":")
        host = host.strip("[]")
        host = "127.0.0.1" if host == "localhost" else host
        if colon and port.isascii() and port.isdigit() and int(port) < 65536:
            with contextlib.suppress(ValueError):
                return Address(host=str(ipaddress.ip_address(host)), port=int(port))
    raise UsageError(
        f"{printable(text)} is no address to listen at.",
        "Write unix:PATH or tcp:ADDRESS:PORT, the address in digits (or localhost).",
    )


def check(addresses: Sequence[Address], tls: TLSFiles | None) -> None:
    """Make sure that nobody can come in from outside without a certificate.

    :raises Refused: where an address beyond loopback has no TLS.
    :raises UsageError: where a TLS file can't be used.
    """
    for address in addresses:
        if not address.loopback and tls is None:
            raise Refused(
                f"{address} can be reached from other hosts, and QMP has no password.",
                "Give --tls-cert, --tls-key and --tls-client-ca, or listen at 127.0.0.1 and use an SSH tunnel.",
            )
    if tls is not None:
        context(tls)


def check_path(path: Path) -> None:
    """Make sure that nobody's file or socket is where we would listen; what a dead process left may be replaced.

    :raises Refused: where there is one.
    """
    if path.exists() and not path.is_socket():
        raise Refused(f"unix:{path} cannot be listened at: there is a file.", "Choose another path.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError:  # EAGAIN where its queue is full, EACCES where it is another user's
            pass
    raise Refused(f"unix:{path} cannot be listened at: another process serves there.", "Choose another path.")


def context(tls: TLSFiles) -> ssl.SSLContext:
    """Return a server's TLS context that takes only clients with a certificate of the authority.

    :raises UsageError: where a file can't be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_cert_chain(tls.cert, tls.key)
        made.load_verify_locations(tls.client_ca)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(printable(str(file)) for file in (tls.cert, tls.key, tls.client_ca))
        raise UsageError(f"One of the TLS files {files} cannot be used: {error}.", "Give PEM files.") from error
    return made


async def serve_tcp(address: Address, tls: TLSFiles | None, adopt: Adopt) -> asyncio.Server:
    """Listen at a TCP address; every client is adopted as a socket.

    :raises Refused: where the address cannot be had.
    """

    serving: set[asyncio.Task[None] | None] = set()

    async def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Nobody else holds this task, and a task that nobody holds can be collected in the middle of its work.
        serving.add(asyncio.current_task())
        try:
            await _bridge(reader, writer, adopt)
        finally:
            serving.discard(asyncio.current_task())

    try:
        return await asyncio.start_server(
            arrived, address.host, address.port, ssl=context(tls) if tls else None, limit=CHUNK_BYTES
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Refused(f"{address} cannot be listened at: {why}.", "Choose another address or port.") from error


async def _bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, adopt: Adopt) -> None:
    """Let a session of ours talk to a stream, through a pair of sockets."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ended = adopt(ours, _name(writer))
    inner_reader, inner_writer = await asyncio.open_connection(sock=theirs)
    copying = asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    await ended.wait()
    try:
        await asyncio.wait_for(copying, READ_TIMEOUT_S)
    except TimeoutError:
        writer.transport.abort()
    for end in (writer, inner_writer):
        end.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await end.wait_closed()


def _name(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername") or ("?", 0)
    certificate = writer.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    who = "".join(c for c in names[0] if c.isprintable()) if names else "tcp"
    return f"{who} {peer[0]}:{peer[1]}"


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, and tell the sink; a slow sink slows the source."""
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError, ssl.SSLError, NotImplementedError, RuntimeError):
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()
