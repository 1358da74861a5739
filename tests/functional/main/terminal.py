"""snaptree commands that run while a test goes on, also at a terminal of their own.  Not for: commands that return."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.framework.vm import TestVM
from tests.framework.waiting import TIMEOUT_S, wait_until


class Started:
    """A command that was started and not waited for."""

    def __init__(self, vm: TestVM, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "snaptree", *args],
            env=vm.env,
            cwd=vm.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, and to nobody else."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str, str]:
        """Wait for its end; return the exit code and what it said on standard output and standard error."""
        out, err = self._process.communicate(timeout=TIMEOUT_S)
        return self._process.returncode, out, err


class Terminal:
    """A command at a terminal of its own, as a user types it.

    :ivar pid: its process.
    """

    def __init__(self, vm: TestVM, *args: str) -> None:
        self._master, slave = os.openpty()
        self._slave = slave
        self._said = b""
        self.before = termios.tcgetattr(slave)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "snaptree", *args],
            env=vm.env,
            cwd=vm.root,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # It becomes the terminal's session leader, so that Ctrl-C reaches it and what is in its process group.
            preexec_fn=lambda: os.login_tty(os.dup(slave)),  # noqa: PLW1509  no other thread runs here
        )
        self.pid = self._process.pid

    def settings(self) -> list[Any]:
        """Return the terminal's settings."""
        return termios.tcgetattr(self._slave)

    def type(self, text: str) -> None:
        """Type it."""
        os.write(self._master, text.encode())

    def said(self) -> str:
        """Return all that the terminal has shown."""
        while select.select([self._master], [], [], 0)[0]:
            self._said += os.read(self._master, 1 << 16)
        return self._said.decode(errors="replace")

    def wait_for(self, words: str) -> None:
        """Wait until the terminal has shown these words."""
        wait_until(
            lambda: words in self.said(), f"{words!r} on the terminal", broken=lambda: self._ended() and self.said()
        )

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        wait_until(self._ended, "the command's end")
        return self._process.wait()

    def close(self) -> None:
        """End what is left of it."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _ended(self) -> str:
        self.said()  # else it would wait for its terminal to be read
        return "" if self._process.poll() is None else "it has ended"


@contextmanager
def terminal(vm: TestVM, *args: str) -> Iterator[Terminal]:
    """Run a command at a terminal; it is ended with the block."""
    running = Terminal(vm, *args)
    try:
        yield running
    finally:
        running.close()
