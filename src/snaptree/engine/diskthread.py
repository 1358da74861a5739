"""The one thread of a VM that uses its catalog and its files.  Not for: what is done in it, nor guest RAM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SOON_S = 0.002
"""So long what nobody waits for leaves core and interpreter to the answer that somebody waits for."""

log = logging.getLogger(__name__)


class DiskThread:
    """Does what may block on the disk, one after the other: SQLite's connection is used by one, writes stay in order.

    Its methods are called in the event loop.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snaptree-disk")
        self._soon: list[Callable[[], None]] = []

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin ``work`` at once, whether or not the caller lets the event loop go on; its end is to be awaited."""
        self._submit()
        return asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def soon(self, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let ``work`` be done before all that is asked for later, and when the caller has answered somebody.

        :param what: what is noted by it, for the log where it fails; then the journal tells the next operation.
        """

        def ended(future: Future[T]) -> None:
            if (error := future.exception()) is not None:
                log.error("%s could not be noted yet: %s", what, error)

        if not self._soon:
            asyncio.get_running_loop().call_later(SOON_S, self._submit)
        self._soon.append(lambda: self._thread.submit(work, *args, **kwargs).add_done_callback(ended))

    def close(self, last: Callable[[], object]) -> None:
        """Wait until all is done, and ``last`` after it."""
        self._submit()
        self._thread.submit(last)
        self._thread.shutdown(wait=True)

    def _submit(self) -> None:
        soon, self._soon = self._soon, []
        for submit in soon:
            submit()
