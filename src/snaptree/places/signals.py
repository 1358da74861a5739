"""Letting a request to end wait until a piece of work is whole.  Not for: a process that serves, which has a loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and the other requests to end wait until the block has ended; they come then.

    Only a process's main thread can do so; in another one nothing is changed, because signals don't come there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[signal.Signals] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number))

    before = {number: signal.signal(number, ask) for number in _ENDING if signal.getsignal(number) is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(asked):
            signal.raise_signal(number)
