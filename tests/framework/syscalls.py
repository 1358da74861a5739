"""What a process makes durable, and in which order, by strace.  Not for: what QEMU does, which is traced by nobody."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .waiting import wait_until

_CALLS = "write,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
_LINE = re.compile(r"^(?:\[pid\s+\d+\] |\d+\s+)?([a-z0-9_]+)\((.*)\)\s+= (-?\d+)")
_FD = re.compile(r"^\d+<([^>]*)>")
_PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_UNFINISHED = re.compile(r"^(\d+)\s+(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. \w+ resumed>(.*)$")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded.

    :param name: the call; ``fsync`` for fdatasync too, ``write`` for everything that writes to a file, ``rename``,
        ``unlink``, ``send``.
    :param path: the file; of a rename the new name.
    :param data: the beginning of what was sent or written, as strace prints it.
    """

    name: str
    path: str
    data: str = ""


@contextmanager
def recorded(pid: int, log: Path) -> Iterator[list[Call]]:
    """Record the calls of all threads of a process; the list is filled when the block ends."""
    calls: list[Call] = []
    # Long enough for several commands that are sent together.
    argv = ["strace", "-f", "-y", "-s", "1000", "-o", str(log), "-e", f"trace={_CALLS}", "-p", str(pid)]
    strace = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: all(_traced(task) for task in Path(f"/proc/{pid}/task").iterdir()), "strace to be attached")
        yield calls
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate()
    calls += parse(log.read_text(errors="replace"))


def parse(text: str) -> list[Call]:
    """Return the calls that succeeded, in the order in which they ended."""
    begun: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        if match := _UNFINISHED.match(line):
            begun[match[1]] = match[2]
            continue
        whole = line
        if match := _RESUMED.match(line):
            whole = f"{match[1]} {begun.pop(match[1], '')}{match[2]}"
        call = _LINE.match(whole)
        if call is not None and int(call[3]) >= 0:
            found.append(_call(call[1], call[2]))
    return found


def _call(name: str, arguments: str) -> Call:
    if name.startswith(("rename", "unlink")):
        return Call(name[:6], _PATHS.findall(arguments)[-1])
    fd = _FD.match(arguments)
    path = fd[1] if fd else ""
    if name.startswith("send"):
        return Call("send", path, arguments)
    return Call("fsync" if "sync" in name else "write", path, arguments)


def _traced(task: Path) -> bool:
    try:
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:
        return True
