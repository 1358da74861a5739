"""The bytes of one QMP client: messages in, answers out, descriptors beside them.  Not for: what they mean.

Raw sockets instead of asyncio's streams, because descriptors travel beside the bytes (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from .framer import Framer, Garbage, Limits, Message

log = logging.getLogger(__name__)

QUEUE_MAX = 8
"""Commands of one client that wait; QEMU's QMP_REQ_QUEUE_LEN_MAX."""
UNSENT_MAX_BYTES = 16 << 20
"""A client that leaves more than so much unread when there is more to say is dropped; one message may be longer."""
FDS_MAX = 16
"""QEMU's TCP_MAX_FDS."""
TOKENS_MAX = (2 << 20) - 8
"""QEMU's MAX_TOKEN_COUNT, less the id that a command gets on its way to QEMU."""


class Connection:
    """A client's socket.

    :ivar queue: what has come and was not taken, oldest first; ``None`` at the end: the client says no more.
    :ivar gone: the socket is closed.
    """

    def __init__(
        self, connection: socket.socket, who: str, *, arrived: Callable[[], object], dropped: Callable[[], object]
    ) -> None:
        """Take over a connected socket; nothing is read before :meth:`read_on`.

        :param arrived: called when something new is in the queue.
        :param dropped: called when the socket was closed; ``None`` is in the queue then.
        """
        connection.setblocking(False)
        self.queue: deque[Message | Garbage | None] = deque()
        self.gone = False
        self._who = who
        self._socket = connection
        self._arrived = arrived
        self._dropped = dropped
        self._framer = Framer(Limits(tokens=TOKENS_MAX))
        self._fds: deque[int] = deque()
        self._out = bytearray()
        self._sent = asyncio.Event()
        self._sent.set()
        self._reading = False

    def read_on(self) -> None:
        """Read what comes, until so much waits that the client has to wait too."""
        if not self._reading and not self.gone:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def take(self) -> Message | Garbage | None:
        """Take the oldest message out of the queue."""
        frame = self.queue.popleft()
        if len(self.queue) < QUEUE_MAX and None not in self.queue:
            self.read_on()
        return frame

    def take_fd(self) -> int | None:
        """Take the descriptor that came last, which the caller closes; as in QEMU, those that came with it are gone."""
        if not self._fds:
            return None
        fd = self._fds.popleft()
        self._close_fds()
        return fd

    def send(self, data: bytes) -> None:
        """Send, now or as the client reads; a client that doesn't is dropped."""
        if self.gone:
            return
        if len(self._out) > UNSENT_MAX_BYTES:
            log.warning("dropped the client %s: it has left %d bytes unread", self._who, len(self._out))
            self.drop()
            return
        if not self._out:
            try:
                data = data[self._socket.send(data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.drop()
                return
            if not data:
                return
            self._sent.clear()
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._writable)
        self._out += data

    async def sent(self, timeout_s: float) -> None:
        """Wait until the client has read all, or the time is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sent.wait(), timeout_s)

    def drop(self) -> None:
        """Close the socket; a second time does nothing."""
        if self.gone:
            return
        self.gone = True
        self._read_off()
        asyncio.get_running_loop().remove_writer(self._socket.fileno())
        self._sent.set()
        self._close_fds()
        self._socket.close()
        self.queue.append(None)
        self._dropped()

    def _read_off(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, FDS_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        if fds:
            # As in QEMU, new descriptors replace those that no command has taken.
            self._close_fds()
            self._fds.extend(fds)
        if not data:
            self._read_off()
            self.queue.append(None)
        else:
            self.queue.extend(self._framer.feed(data))
            if len(self.queue) >= QUEUE_MAX:
                self._read_off()
        self._arrived()

    def _writable(self) -> None:
        try:
            sent = self._socket.send(memoryview(self._out)[: 1 << 20])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.drop()
            return
        del self._out[:sent]
        if not self._out:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())
            self._sent.set()

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.popleft())
