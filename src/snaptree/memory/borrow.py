"""Giving a store the pages of a snapshot of another one, by links to the same files.  Not for: what is written later.

A fork's store begins so.  A borrowed segment is never changed through the borrower: its owner frees in it what no
snapshot of its own needs, and the snapshot that was borrowed stays as long as the fork does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..model.errors import PageStoreError
from ..places.files import private_directory
from . import disk
from .index import INDEX, INDEX_MAX, STAGED, Kind, kinds_of, slots_of, with_base
from .map import CHUNK, PageMap
from .pages import chunks, distinct
from .segment import parse_name

if TYPE_CHECKING:
    from .store import PageStore

BORROWED: Final = "borrowed"
"""A text file: the names of the segments that are another store's, one a line."""
_LIST_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Loan:
    """What a store needs to have the pages of a snapshot of another; it stays true as long as the snapshot is there.

    :param segments: the files that the pages are in.
    :param index: the bytes of its index, as a snapshot without a base.
    """

    id: str
    segments: tuple[Path, ...]
    index: bytes


def lend(store: PageStore, id: str) -> Loan:
    """Return what another store needs to have a snapshot of this one.

    :raises PagesDamaged: where the snapshot's map is damaged.
    :raises PageStoreError: where its index cannot be read.
    """
    segments = tuple(store.segments.path(range) for range in sorted(segments_of(store, store.map(id))))
    with disk.failing("The pages of the fork's snapshot cannot be linked", store.path(id)):
        data = store.path(id).read_bytes()
    if len(data) > INDEX_MAX:
        raise PageStoreError(f"{store.path(id)} is too long to be an index.", "`snaptree check` says more.")
    return Loan(id, segments, with_base(data, None))


def borrow(loan: Loan, directory: Path) -> None:
    """Make a new store in ``directory`` that has one snapshot of another one, and none of its own; not durably yet, see
    :func:`files_of`.

    Prerequisites: both are on one file system; the snapshot is not deleted as long as the new store is there.
    Effects on failure: the directory may hold links; nothing of the other store was changed.

    :raises PageStoreError: where a link can't be made.
    """
    private_directory(directory)
    with disk.failing("The pages of the fork's snapshot cannot be linked", directory):
        for path in loan.segments:
            os.link(path, directory / path.name)
        _write(directory, BORROWED, "".join(f"{path.name}\n" for path in loan.segments).encode())
        _write(directory, f"{loan.id}{INDEX}", loan.index)


def files_of(loan: Loan, directory: Path) -> tuple[Path, Path]:
    """Return the files that :func:`borrow` writes."""
    return directory / BORROWED, directory / f"{loan.id}{INDEX}"


def _write(directory: Path, name: str, data: bytes) -> None:
    fd = disk.create(directory / (name + STAGED))
    try:
        disk.write_all(fd, [data], 0)
    finally:
        os.close(fd)
    disk.rename(directory / (name + STAGED), directory / name)


def borrowed_segments(directory: Path) -> frozenset[tuple[int, int]]:
    """Return the segments in a store's directory that belong to another store.

    :raises OSError: where the list cannot be read.
    """
    try:
        with open(directory / BORROWED, "rb") as file:
            lines = file.read(_LIST_MAX).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(found for line in lines if (found := parse_name(line)))


def segments_of(store: PageStore, map: PageMap) -> set[tuple[int, int]]:
    """Return the segments that a snapshot's pages and leaves lie in.

    :raises PagesDamaged: where the map is damaged, or a segment is missing.
    """
    found: set[tuple[int, int]] = set()
    for leaves in chunks(np.flatnonzero(map.root), CHUNK):
        entries = map.root[leaves]
        tables = kinds_of(entries) == Kind.TABLE
        # A dense leaf lies in one segment.
        slots = [slots_of(entries).astype(np.int64)]
        if tables.any():
            content = map.tables(leaves[tables]).reshape(-1).astype(np.int64)
            slots.append(content[content != 0])
        found.update(range for range, _, _ in store.segments.split(distinct(np.concatenate(slots))))
    return found
