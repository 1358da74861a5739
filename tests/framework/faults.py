"""Ending or stopping the supervisor and QEMU exactly at a named point of an operation.  Not for: what must hold then.

Every point in the source is found by reading it, so a new one is died at without anybody's thinking of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import snaptree
from snaptree.places.lock import holder

Fault = Literal["supervisor", "qemu", "both", "stall"]
FAULTS: tuple[Fault, ...] = ("supervisor", "qemu", "both", "stall")
KILLS: frozenset[Fault] = frozenset({"supervisor", "qemu", "both"})

_POINT = re.compile(r"\b(?:trace\.point|trace|point)\(f?\"([a-z{][\w.{}-]*)\"")
_STEP = re.compile(r"_release\([^\n]*\"(pages\.[\w-]+)\"")  # handed on as an argument
_POLL_S = 0.003
_END_TIMEOUT_MS = 60_000


def trace_points() -> dict[str, str]:
    """Return every trace point of the source, and the file that it is in; ``{…}`` stands for a word."""
    root = Path(snaptree.__path__[0])
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        for pattern in (_POINT, _STEP):
            found |= {match[1]: path.relative_to(root).as_posix() for match in pattern.finditer(text)}
    return found


def supervisor_of(directory: Path) -> int | None:
    """Return the pid of the supervisor that holds a VM's lock; ``None`` where there is none."""
    lock = directory / "lock"
    if holder(lock) != "supervisor":
        return None
    with contextlib.suppress(OSError, ValueError):
        return int(lock.read_text())
    return None


def state_of(pid: int) -> str:
    """Return the letter of proc(5) for a process's state; ``X`` where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@contextmanager
def ending(pid: int) -> Iterator[None]:
    """Wait, after the block, until a process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield
        return
    try:
        yield
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(_END_TIMEOUT_MS), f"process {pid} does not end (it is in state {state_of(pid)})"
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """End a process by SIGKILL, and wait until it is gone; one that is gone is fine."""
    with ending(pid), contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def poll(condition_fd: int | None = None) -> None:
    """Let a moment pass, or less where a descriptor can be read."""
    if condition_fd is None:
        time.sleep(_POLL_S)
    else:
        select.select([condition_fd], [], [], _POLL_S)


def strike(fault: Fault, supervisor: int, qemu: int | None) -> None:
    """Kill what the fault says, while the supervisor is stopped; a supervisor that lives goes on, and ends by itself.

    ``stall`` is not of these: it needs somebody who looks while QEMU is stopped.
    """
    if fault in ("qemu", "both") and qemu is not None:
        kill(qemu)
    if fault in ("supervisor", "both"):
        kill(supervisor)
    else:
        go_on(supervisor)


def go_on(supervisor: int) -> None:
    """Continue a supervisor that is stopped, again at each point that it comes by and stops at, until it has ended."""
    pidfd = os.pidfd_open(supervisor)
    try:
        os.kill(supervisor, signal.SIGCONT)
        end = time.monotonic() + _END_TIMEOUT_MS / 1000
        while not select.select([pidfd], [], [], _POLL_S)[0]:
            if state_of(supervisor) == "T":
                os.kill(supervisor, signal.SIGCONT)
            assert time.monotonic() < end, f"process {supervisor} does not end (it is in state {state_of(supervisor)})"
    finally:
        os.close(pidfd)
