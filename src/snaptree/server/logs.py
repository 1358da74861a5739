"""The bounded logs in a VM's folder.  Not for: what users see at work."""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

from ..places.places import VMPlace

LOG_MAX_BYTES = 1 << 20
QEMU_LOG_MAX_BYTES = 8 << 20

qmp_log = logging.getLogger("snaptree.qmp-traffic")


_users_umask: list[int] = []


def be_private() -> int:
    """Make files for our user alone from now on, and return the umask that the user had, also in a fork of ours."""
    before = os.umask(0o077)
    if not _users_umask:
        _users_umask.append(before)
    return _users_umask[0]


def set_up(place: VMPlace) -> int:
    """Write the supervisor's log and the QMP log from now on, each bounded to two files of 1 MiB.

    :return: the umask that the user had; ours is private from now on.
    """
    before = be_private()
    package = logging.getLogger("snaptree")
    package.setLevel(logging.INFO)
    package.propagate = False
    _attach(package, place.supervisor_log)
    qmp_log.setLevel(logging.INFO)
    qmp_log.propagate = False
    _attach(qmp_log, place.qmp_log)
    return before


def leave() -> None:
    """Write to no log of before any more, in a process that was forked; what is open is not closed."""
    for logger in (logging.getLogger("snaptree"), qmp_log):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


def _attach(logger: logging.Logger, path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_MAX_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)


class QEMUWords:
    """QEMU's standard error in ``qemu.log``: relayed to a terminal, and kept bounded.

    QEMU has the file open to append, so cutting it is safe: what it writes next begins at the new end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.start = path.stat().st_size
        except FileNotFoundError:
            self.start = 0
        self._at = self.start

    def new(self) -> bytes:
        """Return what was written since the last call."""
        try:
            size = self._path.stat().st_size
        except OSError:
            return b""
        if size < self._at:
            self._at = 0
        if size == self._at:
            return b""
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read(1 << 20)
        self._at += len(data)
        return data

    def bound(self) -> None:
        """Move a log that has grown too long to ``qemu.log.1``, cut to its end."""
        try:
            if self._path.stat().st_size <= QEMU_LOG_MAX_BYTES:
                return
            with self._path.open("r+b") as file:
                file.seek(-LOG_MAX_BYTES, os.SEEK_END)
                self._path.with_name(self._path.name + ".1").write_bytes(file.read())
                file.truncate(0)
        except FileNotFoundError:
            return  # an attached QEMU writes elsewhere
        except OSError as error:
            logging.getLogger(__name__).warning("qemu.log cannot be bounded: %s", error)
