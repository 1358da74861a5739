"""How long an operation takes, and how long the VM stands still in it.  Not for: stopping it."""

from __future__ import annotations

import time


class Stopwatch:
    """Measures an operation and the pause within it.

    :ivar stopped_at_s: when the VM was last stopped, on the monotonic clock.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._pause_start: float | None = None
        self._pause_s = 0.0
        self._end: float | None = None
        self.stopped_at_s = time.monotonic()

    def stopping(self) -> None:
        """The VM is about to stop."""
        self._pause_start = time.perf_counter()
        self.stopped_at_s = time.monotonic()

    def stopped(self, real_s: float) -> None:
        """The VM has stopped, at a moment since it was about to.

        :param real_s: when, in seconds of the host's real time.
        """
        if self._pause_start is not None:
            now, ago = time.perf_counter(), time.time() - real_s
            self._pause_start = min(max(self._pause_start, now - ago), now)

    def resumed(self) -> None:
        """The VM runs again."""
        if self._pause_start is not None:
            self._pause_s += time.perf_counter() - self._pause_start
            self._pause_start = None

    def end(self) -> None:
        """The operation has ended: its duration grows no more."""
        self._end = time.perf_counter()

    def duration_ms(self) -> float:
        """Return the milliseconds since it was made."""
        end = time.perf_counter() if self._end is None else self._end
        return round((end - self._start) * 1000, 3)

    def pause_ms(self) -> float:
        """Return the milliseconds that the VM was stopped."""
        running = time.perf_counter() - self._pause_start if self._pause_start is not None else 0.0
        return round((self._pause_s + running) * 1000, 3)
