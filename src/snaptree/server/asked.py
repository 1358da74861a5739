"""Being asked by signals to end: once, and a second time by who doesn't want to wait.  Not for: what is done then."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Insisted(Exception):
    """The user has asked a second time that we end."""


class Asked:
    """Whether we were asked to end.

    :ivar once: set at the first signal.
    """

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self._insisted = asyncio.Event()

    def listen(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP for being asked, from now on."""
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        if self.once.is_set():
            self._insisted.set()
        self.once.set()

    @asynccontextmanager
    async def holding(self, lock: asyncio.Lock) -> AsyncIterator[None]:
        """Hold a lock, once what is under way has ended: a snapshot is whole or not there.

        :raises Insisted: where a second signal comes meanwhile.
        """
        await self.unless_insisted(lock.acquire())
        try:
            yield
        finally:
            lock.release()

    async def unless_insisted(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` to its end.

        :raises Insisted: where a second signal comes meanwhile.
        """
        task = asyncio.ensure_future(work)
        insisted = asyncio.ensure_future(self._insisted.wait())
        await asyncio.wait({task, insisted}, return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        if not task.done():
            task.cancel()
            raise Insisted
        task.result()
