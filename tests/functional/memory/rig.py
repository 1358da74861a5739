"""A QEMU whose guest RAM is in a memfd, as `snaptree run` has it, and comparing all of that RAM.

Not for: what a test expects of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.framework.vm import PlainQEMU, TestVM

from snaptree.memory.kernel import PAGE_SIZE
from snaptree.memory.ram import Backend, GuestRAM, RAMRegion, find_regions

BLOCK = "pc.ram"
MEMORY_MIB = 128


def start(vm: TestVM, *extra: str, inherit: tuple[int, ...] = (), **options: Any) -> PlainQEMU:
    """Start a QEMU with RAM in a memfd that it maps shared, under the machine's own name for it."""
    size = MEMORY_MIB << 20
    memory = os.memfd_create(f"snaptree:{BLOCK}")
    try:
        os.ftruncate(memory, size)
        backend = f"memory-backend-file,id={BLOCK},size={size},share=on,mem-path=/proc/self/fd/{memory}"
        return vm.start_plain_qemu(
            *("-object", backend, "-machine", f"memory-backend={BLOCK}"),
            *extra,
            inherit=(memory, *inherit),
            memory_mib=MEMORY_MIB,
            **options,
        )
    finally:
        os.close(memory)


def regions(plain: PlainQEMU, known: Mapping[str, int] | None = None) -> tuple[RAMRegion, ...]:
    """Return where the RAM of a QEMU of :func:`start` lies.

    :param known: addresses noted earlier, by block.
    """
    path = re.search(r"mem-path=(\S+)", " ".join(plain.argv))
    assert path is not None
    return find_regions(plain.pid, [Backend(BLOCK, path[1], MEMORY_MIB << 20)], known)[0]


def whole(ram: GuestRAM) -> NDArray[np.uint8]:
    """Return a copy of all RAM, holes as zeros and without giving them memory."""
    content = np.zeros((ram.pages, PAGE_SIZE), np.uint8)
    for first, end in ram.populated().tolist():
        content[first:end] = ram.gather(np.arange(first, end, dtype=np.int64))
    return content


def differing(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers of the pages that differ."""
    return np.flatnonzero((before.view(np.uint64) != now.view(np.uint64)).any(axis=1))


def punch_hole(path: str, first: int, pages: int) -> None:
    """Take a file's memory away from some of its pages."""
    words = ["fallocate", "--punch-hole", "--offset", str(first * PAGE_SIZE), "--length", str(pages * PAGE_SIZE), path]
    subprocess.run(words, check=True)


@contextlib.contextmanager
def traced_by_somebody_else(pid: int) -> Iterator[None]:
    """Have another process trace ``pid``, as a debugger does; the kernel allows one tracer, root's too."""
    words = f"from snaptree.memory import kernel; kernel.ptrace(0x4206, {pid}); print('traces', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        try:
            assert tracer.stdout.readline() == b"traces\n"
            yield
        finally:
            tracer.stdin.close()
            tracer.stdout.close()
