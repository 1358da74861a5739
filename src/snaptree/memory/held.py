"""Snapshots whose pages a QEMU maps: they stay as long as it lives, deleted or not.  Not for: mapping them.

::

    ID.mapped     a QEMU was started to map this snapshot's pages
    ID.leaving    the same file, once the snapshot was deleted

QEMU inherits the file's descriptor and, with it, a lock on it, which the kernel drops when QEMU ends, however it ends.
So nobody has to be told, and no process number can be mistaken for another.  Until then a delete only says that the
snapshot is to go: its index stays, and what it shares with others is told from it as before.  Whoever opens the store
for writing afterwards ends the delete.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from ..model.errors import PageStoreError
from ..places import lock
from . import disk

if TYPE_CHECKING:
    from .store import PageStore

MAPPED: Final = ".mapped"
LEAVING: Final = ".leaving"


def hold(store: PageStore, id: str) -> lock.SupervisorLock:
    """Keep a snapshot's pages for a QEMU that is about to be started.

    Prerequisites: nothing else changes the store; the snapshot is there.
    Effects on success: as long as any process has the lock's descriptor, nothing that the snapshot needs is freed.

    :raises PageStoreError: where another QEMU has it, or the file can't be made or locked.
    """
    path = store.path(id, MAPPED)
    with disk.failing("The pages cannot be held", path):
        held = None if id in store.leaving else lock.SupervisorLock.take(path)
    if held is None:
        raise PageStoreError(f"{path}: Another QEMU maps these pages.", "Wait for its end.")
    store.mapped.add(id)
    return held


def let_go(store: PageStore, id: str) -> None:
    """Keep a snapshot's pages no longer, though QEMU may still have the descriptor: it maps none of them."""
    with disk.failing("The pages cannot be let go", store.path(id, MAPPED)):
        disk.unlink(store.path(id, MAPPED))
    store.mapped.discard(id)


def is_held(store: PageStore, id: str) -> bool:
    """Say whether a QEMU that lives may map a snapshot's pages.

    :raises OSError: where that cannot be found out.
    """
    for suffix in (MAPPED, LEAVING):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(store.path(id, suffix), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if lock.holder_of(fd) is not None:
                    return True
            finally:
                os.close(fd)
    return False


def postpone(store: PageStore, id: str) -> None:
    """Say, durably, that a held snapshot is to be deleted; a second time does nothing."""
    if id not in store.leaving:
        disk.rename(store.path(id, MAPPED), store.path(id, LEAVING))
        disk.sync_directory(store.directory)
        store.leaving.add(id)
        store.mapped.discard(id)


def release(store: PageStore) -> None:
    """Delete the snapshots that were to go, and that no QEMU maps any more.

    :raises PageStoreError: where the store cannot be written.
    """
    for id in sorted(store.leaving):
        store.delete(id)
    for id in sorted(store.mapped):
        with disk.failing("The pages cannot be let go", store.path(id, MAPPED)):
            if not is_held(store, id):
                forget(store, id)


def forget(store: PageStore, id: str) -> None:
    """Remove what says that a snapshot was mapped, which is gone now."""
    for known, suffix in ((store.mapped, MAPPED), (store.leaving, LEAVING)):
        if id in known:
            disk.unlink(store.path(id, suffix))
            known.discard(id)
