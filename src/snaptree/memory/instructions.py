"""Where in another process's code the instructions lie that a system call needs.  Not for: making the call."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from .registers import SIGRETURN, SYSCALL, SYSCALL_RET

_LIBC_NAME = re.compile(r"/(libc[.-]|ld-musl)")

_FORMS: Final = ((SYSCALL,), (SYSCALL_RET,), SIGRETURN)
_KNOWN_MAX: Final = 16

_known: dict[str, tuple[int, int, int]] = {}
"""Where each lies in mappings that were looked through, from their start, by file."""


@dataclass(frozen=True, slots=True)
class Code:
    """Addresses of instructions in a process; 0 where there is none.

    :param syscall: ``syscall``.
    :param syscall_ret: ``syscall; ret``.
    :param sigreturn: ``mov $15, %rax; syscall``.
    """

    syscall: int
    syscall_ret: int
    sigreturn: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Look through the process's code.

        :raises PermissionError: where we may not read it.
        :raises ProcessLookupError: where it is gone.
        """
        syscall = syscall_ret = sigreturn = 0
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end, file in _executable(pid):
                found = _in_mapping(memory, start, end, file)
                syscall, syscall_ret, sigreturn = syscall or found[0], syscall_ret or found[1], sigreturn or found[2]
                if syscall and syscall_ret and sigreturn:
                    break
        finally:
            os.close(memory)
        if not syscall:
            raise ProcessLookupError(f"process {pid} has no code: it is a kernel thread, or has ended")
        return cls(syscall, syscall_ret, sigreturn)


def _in_mapping(memory: int, start: int, end: int, file: str) -> tuple[int, int, int]:
    """Return the addresses of the three in an executable mapping; 0 where there is none.

    :param file: what tells it from the mappings of other files; the same one is in each QEMU, so it is remembered.
    """
    offsets = _known.get(file)
    if offsets is None or not all(_is_there(memory, start + o, f) for o, f in zip(offsets, _FORMS, strict=True)):
        try:
            code = os.pread(memory, end - start, start)
        except OSError:  # [vsyscall] cannot be read
            return 0, 0, 0
        first = [next((o for form in forms if (o := code.find(form)) >= 0), -1) for forms in _FORMS]
        offsets = (first[0], first[1], first[2])
        if len(_known) < _KNOWN_MAX and min(offsets) >= 0:
            _known[file] = offsets
    syscall, syscall_ret, sigreturn = (start + offset if offset >= 0 else 0 for offset in offsets)
    return syscall, syscall_ret, sigreturn


def _is_there(memory: int, address: int, forms: tuple[bytes, ...]) -> bool:
    try:
        return any(os.pread(memory, len(form), address) == form for form in forms)
    except OSError:
        return False


def _executable(pid: int) -> list[tuple[int, int, str]]:
    """Return the executable mappings; first the C library, which has all that is looked for."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, executable, file = line.partition(" r-xp ")
        if executable:
            start, _, end = where.partition("-")
            found.append((int(start, 16), int(end, 16), file))
    return sorted(found, key=lambda mapping: not _LIBC_NAME.search(mapping[2]))
