"""A word in a file of its own, written in microseconds.  Not for: what must outlast a crash of the host.

The journal says durably that QEMU has loaded; that RAM is settled too, and the guest may go on, need not outlast more
than this process, as RAM outlasts no more.  SQLite needs 0.3 ms for that and a thread of its own, while a VM stands
still.
"""

from __future__ import annotations

import os
from pathlib import Path

SIZE = 64
"""Bytes: longer than any word, and within one page, so that no reader sees a half of it for a whole one."""


class Mark:
    """The file; methods may be called in any thread.

    :param path: it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def open(self) -> None:
        """Be ready to write; again does nothing.

        :raises OSError: where the file can't be made.
        """
        if self._fd < 0:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.fstat(fd).st_size < SIZE:
                    os.pwrite(fd, bytes(SIZE), 0)  # so that it has its room before it is needed
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd

    def write(self, word: str) -> None:
        """Write a word over the one before.  Prerequisite: :meth:`open`.

        :raises OSError: where that fails; then it holds no whole word.
        """
        data = word.encode("ascii").ljust(SIZE, b"\0")
        if len(data) > SIZE or os.pwrite(self._fd, data, 0) != SIZE:
            raise OSError(0, "not all of it was written", str(self._path))

    def read(self) -> str:
        """Return the word; empty where there is none, or none that can be read."""
        try:
            data = os.pread(self._fd, SIZE, 0) if self._fd >= 0 else self._path.read_bytes()[:SIZE]
            return data.rstrip(b"\0").decode("ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
