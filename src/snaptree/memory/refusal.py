"""Why a process may not be traced, in words, with the remedy.  Not for: tracing.

What decides is the kernel (ptrace(2), "Ptrace access mode checking"); this only explains its EPERM.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..model.errors import Refused
from .kernel import status

YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
FULL_WAY = "or do without: pages are compared instead, which takes longer the more RAM there is"


class TracingRefused(Refused):
    """The process may not be traced, or no system call be made in it; nothing was changed."""


def ptrace_scope() -> int:
    """Return Yama's kernel.yama.ptrace_scope; 0 where the kernel has no Yama."""
    try:
        return int(YAMA.read_text())
    except (OSError, ValueError):
        return 0


def refusal(pid: int, error: OSError) -> TracingRefused:
    """Explain the kernel's refusal to trace a process."""
    try:
        there = status(pid)
        dumpable = Path(f"/proc/{pid}").stat().st_uid == int(there["Uid"].split()[1])
    except (OSError, KeyError, IndexError, ValueError):
        return TracingRefused(f"Process {pid} cannot be traced: {error.strerror}.", "Is it still running?")
    who = f"Process {pid} ({there.get('Name', '')})"
    tracer = there.get("TracerPid", "0")
    if tracer != "0":
        return TracingRefused(
            f"{who} is traced by process {tracer} already, a debugger perhaps.", "End that one, and try again."
        )
    uid, user = os.geteuid(), there["Uid"].split()[1]
    if uid not in (0, int(user)):
        return TracingRefused(
            f"{who} runs as user {user}, and snaptree as user {uid}.", f"Run both as the same user, {FULL_WAY}."
        )
    scope = ptrace_scope()
    if scope == 3 or (scope == 2 and uid != 0):
        return TracingRefused(
            f"{who} may not be traced: kernel.yama.ptrace_scope is {scope}, which forbids it to "
            f"{'everybody' if scope == 3 else 'all but root'}.",
            "Set it to 1 (`sysctl kernel.yama.ptrace_scope=1`"
            f"{'; the kernel allows that only after a reboot' if scope == 3 else ''}), {FULL_WAY}.",
        )
    if scope == 1 and uid != 0 and there.get("PPid") != str(os.getpid()):
        return TracingRefused(
            f"{who} may not be traced: kernel.yama.ptrace_scope is 1, and snaptree did not start it.",
            f"Start the VM with `snaptree run`, set it to 0 (`sysctl kernel.yama.ptrace_scope=0`), {FULL_WAY}.",
        )
    if not dumpable:
        return TracingRefused(
            f"{who} may not be traced: it is not dumpable, as a program is that changed its user or has capabilities.",
            f"Start QEMU as the user that it shall run as, without -runas and file capabilities, {FULL_WAY}.",
        )
    return TracingRefused(
        f"{who} may not be traced: {error.strerror}. A container, AppArmor or SELinux may forbid ptrace(2).",
        f"Allow it there (for a container: --cap-add SYS_PTRACE), {FULL_WAY}.",
    )


def seccomp_objection(pid: int) -> TracingRefused | None:
    """Return why a seccomp filter makes system calls in a process a risk; ``None`` where there is no risk.

    A filter may kill the process for a system call that its author did not think of.  What a filter says, only root may
    read.  QEMU's own one (-sandbox on) lets ours pass, and one that it has from us is known to us.

    :raises ProcessLookupError: where the process is gone.
    """
    try:
        theirs, ours = _filters(status(pid)), _filters(status(os.getpid()))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    own = sum(word.lstrip(b"-") == b"sandbox" for word in words[1:] if word.startswith(b"-"))
    if theirs <= ours + min(own, 1):
        return None
    return TracingRefused(
        f"Process {pid} runs under a seccomp filter that is neither QEMU's nor ours, and may end it for a system call.",
        f"Start QEMU without it (SystemCallFilter= of a systemd unit, for example), {FULL_WAY}.",
    )


def _filters(lines: dict[str, str]) -> int:
    """Return how many seccomp filters a process has; before Linux 5.9, 1 for any number."""
    if lines.get("Seccomp", "0") == "0":
        return 0
    return int(lines.get("Seccomp_filters", "1"))
