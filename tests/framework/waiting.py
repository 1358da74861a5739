"""Waiting for a condition, with a bound: the one place where tests let time pass.  Not for: waiting a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01
TIMEOUT_S = 60.0
"""Long enough for a loaded machine; nothing that works takes a tenth of it."""


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    *,
    timeout_s: float = TIMEOUT_S,
    broken: Callable[[], str | None] = lambda: None,
) -> T:
    """Return what ``condition`` returns once that is true.

    :param what: what is waited for, for the message.
    :param broken: returns why it can never come true; asked before the condition, which is asked once more after it.
    :raises AssertionError: once it is broken, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        why = broken()
        value = condition()
        if value:
            return value
        if why:
            raise AssertionError(f"waited for {what}, which cannot come: {why}")
        if time.monotonic() > deadline:
            raise AssertionError(f"waited for {what} for {timeout_s:g} s in vain; the last answer was {value!r}")
        time.sleep(POLL_S)
