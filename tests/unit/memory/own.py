"""A memfd that our own process maps shared, as QEMU does with guest RAM.  Not for: what is done with it."""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Self

import numpy as np

from snaptree.memory.kernel import PAGE_SIZE
from snaptree.memory.layout import RAMRegion


class OwnRAM:
    """Guest RAM whose QEMU is our own process; a context manager.

    :param covered: it is mapped privately, as a fork's is from a snapshot's image.
    :ivar pages: rows of bytes, as QEMU sees them.
    """

    def __init__(self, pages: int, block: str = "pc.ram", *, covered: bool = False) -> None:
        self.block = block
        self.covered = covered
        self.fd = os.memfd_create(f"snaptree:{block}")
        os.ftruncate(self.fd, pages * PAGE_SIZE)
        self.map = mmap.mmap(self.fd, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE if covered else mmap.MAP_SHARED)
        self.pages = np.frombuffer(self.map, np.uint8).reshape(pages, PAGE_SIZE)

    @property
    def address(self) -> int:
        """Where it is mapped."""
        return self.pages.ctypes.data

    def region(self, *, private: bool = False) -> RAMRegion:
        """Return it as a region."""
        found = os.fstat(self.fd)
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        private = private or self.covered
        return RAMRegion(
            self.block, self.pages.nbytes, self.address, path, found.st_dev, found.st_ino, private, self.covered
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        del self.pages, self.map
