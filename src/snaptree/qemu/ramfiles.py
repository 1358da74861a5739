"""Making the files that guest RAM lies in, and starting QEMU with them.  Not for: deciding where RAM shall lie.

They are memfds: they have no name in any file system and no size limit of a mount, and they are gone when QEMU is,
however it ends.  A later supervisor finds them by the name ``/memfd:snaptree:BLOCK`` among QEMU's descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence

from ..model.errors import QEMUStartFailed, Refused
from .hostmemory import Memory
from .rambackend import RAMBlock

NAME_PREFIX = "snaptree:"
NAME_MAX_BYTES = 249
"""MFD_NAME_MAX_LEN of mm/memfd.c."""
MFD_NOEXEC_SEAL = 0x0008
"""linux/memfd.h; Linux 6.3.  With sysctl vm.memfd_noexec=2 no other memfd can be made."""

_MIB = 1 << 20


@contextlib.contextmanager
def memfds(blocks: Sequence[RAMBlock]) -> Iterator[dict[str, int]]:
    """Make a memfd for each block, of its size, that can neither shrink nor grow; closed here at the end.

    A file that shrinks under QEMU would end it by SIGBUS.

    :return: the descriptors by the blocks' ids.
    :raises QEMUStartFailed: where the kernel refuses.
    """
    made: dict[str, int] = {}
    try:
        try:
            for block in blocks:
                fd = made[block.id] = _create(NAME_PREFIX + block.id)
                os.ftruncate(fd, block.size_bytes)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except OSError as error:  # RLIMIT_NOFILE, RLIMIT_FSIZE, a sandbox that forbids memfds
            raise QEMUStartFailed(f"The kernel gives no file for RAM: {error.strerror}.") from error
        yield made
    finally:
        for fd in made.values():
            os.close(fd)


def check_memory(blocks: Sequence[RAMBlock], memory: Memory) -> None:
    """Make sure that the host has the memory for the RAM: without it, QEMU would be killed at some later moment.

    :raises Refused: where it hasn't.
    """
    wanted = sum(block.size_bytes for block in blocks)
    if memory.bytes is None or wanted <= memory.bytes:
        return
    raise Refused(
        f"The VM's RAM has {wanted // _MIB} MiB, and {memory.where} has {memory.bytes // _MIB} MiB left.",
        "Give the VM less by -m, end other programs, or start it with --memory full, whose RAM is not checked.",
    )


def _create(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    name = os.fsencode(name)[:NAME_MAX_BYTES].decode("utf-8", "ignore")
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)
