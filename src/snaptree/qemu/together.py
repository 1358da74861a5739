"""Doing several things at the same time, and waiting for all of them.  Not for: what may be cut off in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def all_ended(*works: Awaitable[Any]) -> list[Any]:
    """Do all at the same time; afterwards each has ended, also where one has failed: the first of these is raised."""
    ends = await asyncio.gather(*works, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return ends


async def begun_ended(first: Awaitable[Any], *begun: Awaitable[Any]) -> None:
    """Do the first, then wait for what has begun already; as :func:`all_ended`, without a task for each.

    What is there already costs no turn of the event loop.
    """
    failed: Exception | None = None
    for work in (first, *begun):
        try:
            await work
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed
