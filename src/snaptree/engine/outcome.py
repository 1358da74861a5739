"""How a piece of work in one thread ended, for a thread that waits for it.  Not for: the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Outcome:
    """One piece of work.

    :param well: there is nothing to wait for, and it went well.
    """

    def __init__(self, *, well: bool = False) -> None:
        self._ended = threading.Event()
        self._well = well
        if well:
            self._ended.set()

    def of(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work here."""
        try:
            result = work(*args, **kwargs)
            self._well = True
            return result
        finally:
            self._ended.set()

    def give_up(self) -> None:
        """Nobody will do the work any more; where it was done this does nothing."""
        self._ended.set()

    def went_well(self) -> bool:
        """Wait until it has ended, and say whether it went well."""
        self._ended.wait()
        return self._well
