"""Which snapshots' pages a QEMU maps: a file for each in the page store, which QEMU holds.  Not for: the pages.

::

    vms/VM/pages/ID.mapped     a QEMU was started to map this snapshot's pages
    vms/VM/pages/ID.leaving    the same file, once the snapshot was deleted

QEMU inherits the file's descriptor and, with it, a lock on it, which the kernel drops when QEMU ends, however it ends.
So nobody has to be told, and no process number can be mistaken for another.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from .lock import SupervisorLock, holder_of

MAPPED: Final = ".mapped"
LEAVING: Final = ".leaving"


def hold(pages: Path, id: str) -> SupervisorLock | None:
    """Keep a snapshot's pages for a QEMU that is about to be started; ``None`` where another one has them.

    Prerequisites: nobody else changes the store; the snapshot is there.
    Effects on success: as long as any process has the lock's descriptor, nothing that the snapshot needs is freed.

    :raises OSError: where the file can't be made or locked.
    """
    if (pages / f"{id}{LEAVING}").exists():
        return None
    return SupervisorLock.take(pages / f"{id}{MAPPED}")


def let_go(pages: Path, id: str) -> None:
    """Keep a snapshot's pages no longer, though QEMU may still have the lock: it maps none of them.

    :raises OSError: where the file can't be removed.
    """
    (pages / f"{id}{MAPPED}").unlink(missing_ok=True)


def is_held(pages: Path, id: str) -> bool:
    """Say whether a QEMU that lives may map a snapshot's pages.

    :raises OSError: where that cannot be found out.
    """
    for suffix in (MAPPED, LEAVING):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(pages / f"{id}{suffix}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if holder_of(fd) is not None:
                    return True
            finally:
                os.close(fd)
    return False
