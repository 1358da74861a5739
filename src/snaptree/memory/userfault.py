"""A userfaultfd of QEMU's own address space, in asynchronous write-protect mode.  Not for: reading what was written.

The kernel then notes each first write to a page by itself, without any message to anybody, and PAGEMAP_SCAN
(``pagemap``) reads and renews the notes from outside.  The descriptor stays open in QEMU, so the notes go on when we
end, and a later supervisor needs no descriptor to read them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..model.errors import Refused
from .kernel import SYS_CLOSE, SYS_USERFAULTFD, pidfd_getfd, status, syscall
from .ptrace import Traced, allow_later_tracers
from .refusal import refusal

# linux/userfaultfd.h
UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00

FEATURES = UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY
"""With UFFD_USER_MODE_ONLY no privilege is needed; asynchronous mode never blocks a fault, so it leaves none out."""

ALLOW_IT = "Allow it in the container's or the service's seccomp filter, or do without: pages are compared instead."


class UserfaultUnavailable(Refused):
    """The kernel has no userfaultfd in asynchronous write-protect mode, or forbids it; nothing was changed."""


def own() -> int:
    """Return a userfaultfd of our own process, ready for ``register``: to find out whether it works.

    :raises UserfaultUnavailable: where it doesn't.
    """
    with _explained():
        fd = syscall(SYS_USERFAULTFD, FLAGS)
    return _enabled(fd)


def check() -> None:
    """Find out whether the kernel has it and lets us use it.

    :raises UserfaultUnavailable: where not.
    """
    if status(os.getpid()).get("Seccomp", "0") == "0":
        os.close(own())
        return
    # A seccomp filter may answer an unexpected system call by ending the process: that must not be ours.
    words = "from snaptree.memory import userfault; userfault.own()"
    done = subprocess.run([sys.executable, "-c", words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode < 0:
        raise UserfaultUnavailable("A seccomp filter ends programs that call userfaultfd(2).", ALLOW_IT)
    if done.returncode > 0:
        os.close(own())  # says why


def of_process(pid: int) -> int:
    """Return a descriptor of the process's userfaultfd in asynchronous mode; makes one there, where it has none.

    Prerequisites: permission to trace the process.
    Effects on success: the process has one more descriptor, for good, unless it had it already.
    Effects on failure: none that lasts.

    :raises TracingRefused: where we may not trace it.
    :raises UserfaultUnavailable: where the kernel has no such thing.
    :raises ProcessLookupError: where the process is gone.
    """
    there = find(pid)
    if there is None:
        with Traced(pid) as traced:
            return make(traced)
    return _fetch(pid, there)


def make(traced: Traced) -> int:
    """Make one in a process that has none, and stands still; return a descriptor of it.

    Effects: as of :func:`of_process`.

    :raises TracingRefused, UserfaultUnavailable, ProcessLookupError: as of :func:`of_process`.
    """
    with _explained():
        there = traced.call(SYS_USERFAULTFD, FLAGS)
    allow_later_tracers(traced)
    try:
        # While it stands still, so that it cannot use or close that number.
        return _fetch(traced.pid, there)
    except BaseException:
        traced.call(SYS_CLOSE, there)
        raise


def find(pid: int) -> int | None:
    """Return the number, in that process, of its userfaultfd in asynchronous mode; QEMU's own (for postcopy) are not.

    :raises TracingRefused: where we may not look at its descriptors.
    :raises ProcessLookupError: where the process is gone.
    """
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(entry.readlink()) == "anon_inode:[userfaultfd]" and _is_asynchronous(pid, entry.name):
                    return int(entry.name)
    except PermissionError as error:
        raise refusal(pid, error) from error
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    return None


def register(fd: int, start: int, size: int) -> None:
    """Let the kernel note writes to a range of the address space that ``fd`` belongs to; again does no harm.

    :param start: an address in that process, page-aligned.
    :param size: bytes, whole pages; all of it must be mapped.
    :raises UserfaultUnavailable: where the range cannot be watched, because another userfaultfd has a part of it, for
        example.
    """
    try:
        fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(struct.pack("<4Q", start, size, UFFDIO_REGISTER_MODE_WP, 0)), True)
    except OSError as error:
        why = "another userfaultfd of QEMU has it already" if error.errno == errno.EBUSY else error.strerror
        raise UserfaultUnavailable(
            f"Writes to {size} bytes at {start:#x} cannot be watched: {why}.",
            "Do without: pages are compared instead.",
        ) from error


def _fetch(pid: int, number: int) -> int:
    try:
        fd = pidfd_getfd(pid, number)
    except PermissionError as error:
        raise refusal(pid, error) from error
    return _enabled(fd)


def _enabled(fd: int) -> int:
    """Agree with the kernel on the features, unless that was done already; closes ``fd`` where it fails."""
    try:
        fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("<3Q", UFFD_API, FEATURES, 0)), True)
    except OSError as error:
        # A second handshake fails like one for an unknown feature.
        if _is_asynchronous(os.getpid(), str(fd)):
            return fd
        os.close(fd)
        raise UserfaultUnavailable(
            f"The kernel's userfaultfd has no asynchronous write protection (this is Linux {os.uname().release}).",
            "Use Linux 6.7 or later, or do without: pages are compared instead.",
        ) from error
    return fd


def _is_asynchronous(pid: int, number: str) -> bool:
    """Say whether a userfaultfd is in asynchronous mode, by its line ``API: aa:FEATURES:…``."""
    text = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    line = next((line for line in text.splitlines() if line.startswith("API:")), "API:\t0:0:0")
    return bool(int(line.split(":")[2], 16) & UFFD_FEATURE_WP_ASYNC)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise UserfaultUnavailable(
                "The kernel has no userfaultfd(2).", "Use Linux 6.7 or later with CONFIG_USERFAULTFD."
            ) from error
        raise UserfaultUnavailable(f"userfaultfd(2) is forbidden here: {error.strerror}.", ALLOW_IT) from error
