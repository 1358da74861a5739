"""A sign of life for what takes longer than half a second: a spinner with the time so far.  Not for: percentages.

It is drawn by an interval timer's signal instead of a thread, so that it works while the command waits in a system
call (which Python resumes), and so that forking a supervisor meanwhile is safe: children do not inherit timers
(setitimer(2)).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .human import clean

DELAY_S = 0.5
INTERVAL_S = 0.1

_UNICODE = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII = "|/-\\"


@contextmanager
def shown(what: str) -> Iterator[None]:
    """Show ``what`` on standard error while the block runs, if that is a terminal; nothing of it stays.

    Only the main thread can show it, as only it receives signals; elsewhere nothing is shown.
    """
    if not _wanted():
        yield
        return
    frames = _UNICODE if (sys.stderr.encoding or "").lower().startswith("utf") else _ASCII
    fd = sys.stderr.fileno()
    start = time.monotonic()
    drawn = 0

    def draw(number: int, frame: FrameType | None) -> None:
        nonlocal drawn
        elapsed_s = time.monotonic() - start
        text = f"{frames[int(elapsed_s / INTERVAL_S) % len(frames)]} {clean(what)}, {elapsed_s:.1f} s"
        # One line only: a line that wraps could not be taken back.
        text = text[: (os.get_terminal_size(fd).columns or 80) - 1]
        os.write(fd, f"\r{text}".encode(sys.stderr.encoding, "replace"))
        drawn = max(drawn, len(text))

    before = signal.signal(signal.SIGALRM, draw)
    timer = signal.setitimer(signal.ITIMER_REAL, DELAY_S, INTERVAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
        if drawn:
            os.write(fd, b"\r" + b" " * drawn + b"\r")


def _wanted() -> bool:
    import threading  # noqa: PLC0415

    return (
        sys.stderr is not None
        and sys.stderr.isatty()
        and os.environ.get("TERM", "dumb") != "dumb"
        and threading.current_thread() is threading.main_thread()
    )
