"""What this host can do for guest RAM, found out by doing it.  Not for: one running VM (``tracker``)."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..model.errors import SnaptreeError
from . import userfault
from .kernel import PAGE_SIZE, SYS_GETPID, pidfd_getfd
from .pagemap import Pagemap
from .ptrace import Traced
from .refusal import ptrace_scope

_PAGES = 4
_WRITTEN_PAGE = 2


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that the host can do or not.

    :param name: stable, lower case, with hyphens.
    :param available: whether it can.
    :param message: a sentence: what was found.
    :param remedy: a sentence: what to do, where it cannot; empty otherwise.
    """

    name: str
    available: bool
    message: str
    remedy: str = ""


def probe() -> tuple[Ability, ...]:
    """Find out what the host can do.  Takes a tenth of a second, and starts and ends one process of ours.

    ``write-tracking``
        the kernel notes what is written (userfaultfd in asynchronous write-protect mode, and PAGEMAP_SCAN).
    ``tracing``
        a QEMU that we start can be made to call userfaultfd (ptrace).
    ``descriptors``
        a descriptor of it can be fetched (pidfd_getfd).
    ``later-tracing``
        the same of a QEMU that somebody else started, or a supervisor before us.
    ``memory-files``
        guest RAM can be in a memfd.
    """
    return (_write_tracking(), *_tracing(), _later_tracing(), _memory_files())


def tracker_by(abilities: tuple[Ability, ...]) -> tuple[str, str]:
    """Return the name of the tracker that a VM started by us will have, and a sentence why."""
    needed = [ability for ability in abilities if ability.name in ("write-tracking", "tracing", "descriptors")]
    missing = [ability.message for ability in needed if not ability.available]
    if missing:
        return "compare", f"All pages are compared: {missing[0]}"
    return "userfaultfd", "The kernel notes which pages are written."


def _write_tracking() -> Ability:
    def works() -> str:
        userfault.check()
        found = _written_of_our_own()
        if found != [[_WRITTEN_PAGE, _WRITTEN_PAGE + 1]]:
            raise SnaptreeError(f"The kernel noted writes to pages {found} instead of page {_WRITTEN_PAGE}.")
        return f"Linux {os.uname().release} notes which pages are written."

    return _try("write-tracking", works, "Use Linux 6.7 or later; until then pages are compared.")


def _written_of_our_own() -> list[list[int]]:
    """Write to one page of a memfd of our own, and return what the kernel noted."""
    with contextlib.ExitStack() as undo:
        memory = os.memfd_create("snaptree-probe", os.MFD_CLOEXEC)
        undo.callback(os.close, memory)
        os.ftruncate(memory, _PAGES * PAGE_SIZE)
        pages = np.frombuffer(mmap.mmap(memory, _PAGES * PAGE_SIZE), np.uint8)
        start, whole = pages.ctypes.data, np.array([[0, _PAGES]], np.int64)
        watch = userfault.own()
        undo.callback(os.close, watch)
        userfault.register(watch, start, len(pages))
        pagemap = undo.enter_context(Pagemap(os.getpid()))
        pagemap.scan(start, whole, arm=True)
        pages[_WRITTEN_PAGE * PAGE_SIZE] = 1
        found: list[list[int]] = pagemap.scan(start, whole, arm=True).tolist()
        return found


def _tracing() -> tuple[Ability, Ability]:
    """Trace a child that does nothing, as we would QEMU."""
    # It ends by itself when our end of the pipe is closed, whatever becomes of us.
    with subprocess.Popen(
        [sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdin is not None

        def traces() -> str:
            with Traced(child.pid) as traced:
                if traced.call(SYS_GETPID) != child.pid:
                    raise SnaptreeError("A system call made in another process gave a wrong result.")
            return f"System calls can be made in a QEMU that snaptree starts ({platform.machine()})."

        def fetches() -> str:
            os.close(pidfd_getfd(child.pid, 0))
            return "A descriptor of another process can be fetched (pidfd_getfd)."

        try:
            return (
                _try("tracing", traces, "Allow ptrace(2); until then pages are compared."),
                _try("descriptors", fetches, "Allow pidfd_getfd(2); until then pages are compared."),
            )
        finally:
            child.stdin.close()


def _later_tracing() -> Ability:
    scope = ptrace_scope()
    if os.geteuid() == 0 and scope < 3:
        return Ability("later-tracing", True, "A QEMU that somebody else started can be traced (by root).")
    if scope == 0:
        return Ability("later-tracing", True, "A QEMU that somebody else started can be traced, of the same user.")
    return Ability(
        "later-tracing",
        False,
        f"A QEMU that somebody else started cannot be traced: kernel.yama.ptrace_scope is {scope}.",
        "Start VMs with `snaptree run`, or set it to 0 (`sysctl kernel.yama.ptrace_scope=0`)."
        if scope == 1
        else "Set it to 1 (`sysctl kernel.yama.ptrace_scope=1`) and start VMs with `snaptree run`.",
    )


def _memory_files() -> Ability:
    def works() -> str:
        os.close(os.memfd_create("snaptree-probe", os.MFD_CLOEXEC))
        return "Guest RAM can be in a memfd."

    return _try("memory-files", works, "Allow memfd_create(2).")


def _try(name: str, works: Callable[[], str], remedy: str) -> Ability:
    try:
        return Ability(name, True, works())
    except SnaptreeError as error:
        return Ability(name, False, error.message, error.remedy or remedy)
    except OSError as error:
        return Ability(name, False, f"It does not work: {error.strerror or error}.", remedy)
