"""Deleting a snapshot whose pages a QEMU maps: that waits until it ends.  Not for: who maps them (``places.mapped``).

Until then a delete only says that the snapshot is to go: its index stays, and what it shares with others is told from
it as before.  Whoever opens the store for writing afterwards ends the delete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..places.mapped import LEAVING, MAPPED, is_held
from . import disk

if TYPE_CHECKING:
    from .store import PageStore


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
            if not is_held(store.directory, id):
                forget(store, id)


def forget(store: PageStore, id: str) -> None:
    """Remove what says that a snapshot was mapped, which is gone now."""
    for known, suffix in ((store.mapped, MAPPED), (store.leaving, LEAVING)):
        if id in known:
            disk.unlink(store.path(id, suffix))
            known.discard(id)
