"""Finding and ending, by pid, every process that a test left.  Not for: processes that no test started.

Whatever a test starts inherits an environment variable with a value of its own: supervisors that detached
themselves, the QEMU below them, its daemons.  So nothing is ever found by its name.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

MARK = "SNAPTREE_TEST_VM"

_END_TIMEOUT_MS = 10_000


def marked(value: str) -> list[int]:
    """Return the pids of all processes whose environment holds ``MARK`` with this value."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return sorted(pid for pid in pids if pid != os.getpid() and _is_marked(pid, value))


def end_marked(value: str) -> None:
    """End all processes whose environment holds ``MARK`` with this value, and wait until they are gone."""
    while pids := marked(value):
        for pid in pids:
            _end(pid, value)


def command_line(pid: int) -> str:
    """Return a process's command line, or nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _is_marked(pid: int, value: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as environ:
            return f"{MARK}={value}".encode() in environ.read().split(b"\0")
    except OSError:
        return False


def _end(pid: int, value: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The pid may have become somebody else's since it was found; from here on the descriptor is one process.
        if _is_marked(pid, value):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(_END_TIMEOUT_MS), f"process {pid} does not end: {command_line(pid)}"
    finally:
        os.close(pidfd)
