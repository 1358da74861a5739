"""Programs to make system calls in, which tell how they are.  Not for: what is done to them.

A target prints a line each time that it has done something, and ends when its input ends.
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Self

ANSWER = """
import os, signal
signals = 0
def count(number, frame):
    global signals
    signals += 1
signal.signal(signal.SIGUSR1, count)
print("up", flush=True)
while os.read(0, 1):
    assert sum(number * 1.5 for number in range(1000)) == 749250.0
    print(signals, flush=True)
"""
"""Waits in read(2) for a byte, and answers with the number of SIGUSR1 so far."""

CALL = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
ready = os.dup(0)
fds = ctypes.create_string_buffer(struct.pack("ihh", ready, 1, 0))
print("up", flush=True)
while True:
    result = {call}
    print(result, ctypes.get_errno() if result < 0 else 0, flush=True)
    if not os.read(0, 1):
        break
"""
"""Waits in ``call`` for its input, and prints the result and the errno."""

HANDLER = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)"
"""A line to put before it: SIGUSR1 is handled."""

FILTERED = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))  # BPF_RET, SECCOMP_RET_ALLOW
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
print("up", flush=True)
input()
"""


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
print(child.pid, flush=True)
print(child.wait(), flush=True)
"""
"""Starts another target, and prints its pid and how it ended."""


class Target:
    """A program that runs; a context manager."""

    def __init__(self, program: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.line() == "up"

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def poke(self) -> None:
        """Give it a byte."""
        assert self._process.stdin is not None
        self._process.stdin.write(b".")

    def line(self) -> str:
        """Return its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def ask(self) -> str:
        """Give it a byte, and return its answer."""
        self.poke()
        return self.line()

    def kill(self) -> int:
        """End it, and return its status."""
        self._process.kill()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()
