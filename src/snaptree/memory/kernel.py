"""The system calls that Python's library lacks, with Linux's names and numbers.  Not for: what they are used for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# asm/unistd_64.h
SYS_CLOSE = 3
SYS_MMAP = 9
SYS_MADVISE = 28
SYS_GETPID = 39
SYS_PRCTL = 157
SYS_RESTART_SYSCALL = 219
SYS_PROCESS_VM_READV = 310
SYS_PROCESS_VM_WRITEV = 311
SYS_USERFAULTFD = 323
SYS_PIDFD_GETFD = 438

# linux/prctl.h
PR_SET_PTRACER = 0x59616D61
PR_SET_PTRACER_ANY = 2**64 - 1

PAGE_SIZE = 4096

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_PTRACE = _LIBC.ptrace
_PTRACE.restype = ctypes.c_long
_PTRACE.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def syscall(number: int, *args: int) -> int:
    """Make a system call in our own process, without the GIL.

    :raises OSError: with the kernel's errno.
    """
    result: int = _SYSCALL(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    if result < 0:
        raise _last_error()
    return result


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    """ptrace(2), but for the requests that return a value (PTRACE_PEEK…).

    :raises OSError: with the kernel's errno.
    """
    if _PTRACE(request, pid, address, data) < 0:
        raise _last_error()


def pidfd_getfd(pid: int, fd: int) -> int:
    """Return a copy of another process's descriptor; the caller closes it.

    :raises OSError: EPERM where we may not trace it; ENOSYS or EPERM where a seccomp filter forbids the call.
    """
    process = os.pidfd_open(pid)
    try:
        return syscall(SYS_PIDFD_GETFD, process, fd, 0)  # the copy is close-on-exec
    finally:
        os.close(process)


def status(pid: int) -> dict[str, str]:
    """Return the lines of ``/proc/PID/status``, by their names.

    :raises OSError: where the process is gone.
    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
