"""Starting QEMU, and knowing when it has ended.  Not for: what stands on its command line.

QEMU gets a session of its own, so that Ctrl-C at our terminal reaches us and not it, and the user's working
directory.  Its standard error goes to ``qemu.log``, a file, so that a supervisor's death takes nothing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import QEMUStartFailed, Refused
from ..model.names import printable

WORDS_MAX_BYTES = 4096
GIVE_QEMU = "Give the path of a QEMU system emulator; Debian's package qemu-system-x86 has qemu-system-x86_64."


@dataclass(slots=True)
class Process:
    """A QEMU process, our child or not.

    :ivar pidfd: readable once the process has ended (pidfd_open(2)).
    :ivar status: the exit status as subprocess has it; ``None`` while it runs or where it isn't our child.
    """

    pid: int
    pidfd: int
    child: subprocess.Popen[bytes] | None = None
    status: int | None = None

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return a process that somebody else started.

        :raises ProcessLookupError: where there is none.
        """
        return cls(pid, os.pidfd_open(pid))

    def ended(self) -> bool:
        """Say whether it has ended, and take its status where it is our child."""
        if not select.select([self.pidfd], [], [], 0)[0]:
            return False
        if self.child is not None:
            self.status = self.child.wait()
        return True

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self.ended():
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        # A second waiter would replace the first one's reader, so each watches a descriptor of its own.
        watch = os.dup(self.pidfd)
        loop.add_reader(watch, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
        self.ended()

    def kill(self) -> None:
        """End it at once, by SIGKILL to exactly this process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


def listen(path: Path) -> socket.socket:
    """Return a listening Unix socket at ``path`` with mode 0600, replacing a dead one.

    QEMU inherits it (``-chardev socket,fd=N,server=on``): so the mode is ours, and one can connect at once.
    """
    if _is_served(path):
        raise Refused(
            f"Somebody serves at {printable(str(path))} already.", "End that process, or choose another path."
        )
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # fchmod on the socket sets the mode that bind(2) gives the name, so there is no moment with a wider one.
        os.fchmod(server.fileno(), 0o600)
        server.bind(str(path))
        server.listen(1)
    except BaseException:
        server.close()
        raise
    return server


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # so many wait there that the next has no place
        except OSError:
            return False
    return True


def start(
    argv: Sequence[str], cwd: Path, log: Path, *, inherit: Sequence[int], foreground: bool, umask: int
) -> Process:
    """Start QEMU.

    :param argv: the program and its arguments, complete.
    :param log: where its standard error is appended; without ``foreground`` its standard output too.
    :param inherit: descriptors that QEMU shall have, under the same numbers.
    :param foreground: QEMU keeps our standard input and output, for ``-nographic`` and ``-serial stdio``.
    :param umask: the user's own, for the files that QEMU makes.
    :raises QEMUStartFailed: where the program cannot be executed, or the directory is gone.
    """
    for fd in inherit:
        os.set_inheritable(fd, True)
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        child = subprocess.Popen(
            list(argv),
            cwd=cwd,
            stdin=None if foreground else subprocess.DEVNULL,
            stdout=None if foreground else words,
            stderr=words,
            pass_fds=() if foreground else tuple(inherit),
            # In the foreground the user may hand descriptors to QEMU (-add-fd, -netdev tap,fd=); ours are CLOEXEC.
            close_fds=not foreground,
            start_new_session=True,
            umask=umask,
        )
    except OSError as error:
        what = f"the working directory {printable(str(cwd))}" if not cwd.is_dir() else printable(argv[0])
        raise QEMUStartFailed(
            f"QEMU cannot be started: {what}: {error.strerror}.",
            GIVE_QEMU,
        ) from error
    finally:
        os.close(words)
    return Process(child.pid, os.pidfd_open(child.pid), child)


def last_words(log: Path, since: int) -> str:
    """Return what QEMU wrote to its log after the offset ``since``, cut to its end."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(since, size), size - WORDS_MAX_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()).strip()


def describe_status(status: int | None) -> str:
    """Return how a process ended, in words."""
    if status is None:
        return "ended"
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return f"ended with status {status}"
