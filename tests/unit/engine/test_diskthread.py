"""The thread that uses a VM's catalog: in which order it does what it is given."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from snaptree.engine.diskthread import DiskThread


def test_what_shall_be_done_soon_is_done_before_all_that_is_asked_later() -> None:
    done: list[str] = []

    async def use() -> None:
        thread = DiskThread()
        thread.soon("the first", done.append, "soon")
        await thread.run(done.append, "run")
        thread.soon("the second", done.append, "soon again")
        thread.close(lambda: done.append("last"))

    asyncio.run(use())
    assert done == ["soon", "run", "soon again", "last"]


def test_what_shall_be_done_soon_begins_only_when_the_caller_lets_the_loop_go_on() -> None:
    async def use() -> None:
        thread = DiskThread()
        begun = threading.Event()
        thread.soon("it", begun.set)
        assert not thread._thread._threads  # nothing has been handed to it
        assert not begun.is_set()
        await asyncio.sleep(0)
        assert await asyncio.to_thread(begun.wait, 60)
        thread.close(lambda: None)

    asyncio.run(use())


def test_what_fails_is_logged_with_what_it_was_for(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("no room")

    async def use() -> None:
        thread = DiskThread()
        thread.soon("the load of s", fail)
        thread.close(lambda: None)

    with caplog.at_level(logging.ERROR):
        asyncio.run(use())
    assert "the load of s could not be noted yet: no room" in caplog.text
