"""What a crash has left in a page store, and taking it away.  Not for: damage, which only a check may judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.errors import PageStoreError
from . import delete, disk, held
from .index import INDEX, STAGED

if TYPE_CHECKING:
    from .store import PageStore


def clean(store: PageStore) -> None:
    """Remove everything that was being written, and end deletes that have begun, but those that a QEMU holds up.

    A staged index of a snapshot that is not there says that its commit was broken off: its segment may have its name
    already.  No other segment can be without a snapshot by a crash, and none is removed for that.

    :raises PageStoreError: where a file cannot be removed.
    :raises OSError: likewise.
    """
    for name in store.staged:
        id = name.removesuffix(INDEX + STAGED)
        if id != name and id not in store.headers and id not in store.pending:
            _remove_made_for(store, id)
    if store.staged:
        # The staged index goes last: as long as it is there, the segment is known to be nobody's.
        disk.sync_directory(store.directory)
        for name in store.staged:
            disk.unlink(store.directory / name)
        store.staged = []
        store.trace("pages.cleaned")
    for id in sorted(store.pending):
        delete.finish(store, id)
    held.release(store)


def _remove_made_for(store: PageStore, id: str) -> None:
    for range in store.segments.ranges:
        try:
            header = store.segments.open(range).header
        except PageStoreError:
            continue
        if header.made_for == id:
            store.segments.drop(range)
