"""The store of a VM's RAM pages: its snapshots, their maps, reading them.  Not for: the formats, or how a write goes.

Every snapshot has a map from pages to slots, which began as a copy of its base's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..model.errors import PagesDamaged, PageStoreError
from ..model.ids import is_id
from ..places.files import private_directory
from ..places.mapped import LEAVING, MAPPED
from . import cleaning, delete, disk, held, lost, runs, verify
from .borrow import borrowed_segments
from .index import (
    DELETING,
    FREED,
    HEADER_MAX,
    INDEX,
    INDEX_MAX,
    STAGED,
    IndexHeader,
    header_size,
    parse_header,
    parse_root,
)
from .map import Leaves, PageMap
from .pages import Bytes, Layout, Slots
from .segment import parse_name
from .segments import Segments
from .writer import Writer

if TYPE_CHECKING:
    from .runs import MapRun
    from .verify import Damage, Seen, Unused

_HEAD_GUESS: Final = 1024
_MAPS_MAX: Final = 32


class PageStore:
    """A store, open.  One thread may change it at a time; others may read meanwhile.

    :ivar borrowed: the segments that belong to another store, and are not changed here.
    :ivar trace: called with the name of each step that a crash may come after.
    """

    def __init__(self, directory: Path, trace: Callable[[str], None] | None = None) -> None:
        self.directory = directory
        self.trace = trace or (lambda name: None)
        names = {entry.name for entry in os.scandir(directory)}
        self.staged = sorted(name for name in names if name.endswith(STAGED))
        self.segments = Segments(directory, filter(parse_name, names))
        self.borrowed = borrowed_segments(directory)
        self.leaves = Leaves(self.segments)
        self.headers: dict[str, IndexHeader | PageStoreError] = {}
        """Of each snapshot: its header, or why that cannot be read."""
        self.pending: dict[str, str] = {}
        """Of each snapshot whose delete has begun: DELETING or FREED."""
        self.mapped: set[str] = set()
        """Of these, those that a QEMU maps, or has mapped."""
        self.leaving: set[str] = set()
        """Those that were so, and are deleted once no QEMU maps them any more."""
        self.writing: Writer | None = None
        self._owned = False
        self._lost: tuple[tuple[int, int], ...] | None = None  # later it can only be more than it must be
        self._maps: OrderedDict[str, PageMap] = OrderedDict()
        self._lock = threading.Lock()
        for name in names:
            id, suffix = name[:36], name[36:]
            if is_id(id) and suffix in (DELETING, FREED):
                self.pending[id] = suffix
            elif is_id(id) and suffix == INDEX:
                self.headers[id] = self.read_header(id, INDEX)
            elif is_id(id) and suffix in (MAPPED, LEAVING):
                (self.mapped if suffix == MAPPED else self.leaving).add(id)

    @classmethod
    def open(cls, directory: Path, *, clean: bool, trace: Callable[[str], None] | None = None) -> PageStore:
        """Open the store in a directory, which is made where it is missing.

        :param clean: remove what a crash has left, and end deletes that it broke off.  Only for the one process that
            may change the store; others see it as it is.
        :raises PageStoreError: where the directory cannot be read, or, with ``clean``, be written.
        :raises SnaptreeError: where it is no private directory of ours.
        """
        private_directory(directory)
        with disk.failing("The page store cannot be opened", directory):
            store = cls(directory, trace)
            if clean:
                cleaning.clean(store)
                store._owned = True
        return store

    def close(self) -> None:
        """Close all files, and abort a write; where it may be changed, give back what a QEMU that has ended held."""
        if self.writing is not None:
            self.writing.abort()
        if self._owned and self.leaving:
            with contextlib.suppress(PageStoreError):  # the next that opens it tries again
                held.release(self)
        self.segments.close()

    def path(self, id: str, suffix: str = INDEX) -> Path:
        """Return where a snapshot's index lies."""
        return self.directory / f"{id}{suffix}"

    def ids(self) -> set[str]:
        """Return the ids of all snapshots, damaged ones too, but not of those that are to go."""
        return set(self.headers) - self.leaving

    def has(self, id: str) -> bool:
        """Say whether the pages of a snapshot of that id are there."""
        return id in self.headers

    def base(self, id: str) -> str | None:
        """Return the snapshot that this one shares pages with; ``None`` where there is none, or it is not known."""
        header = self.headers[id]
        base = header.base if isinstance(header, IndexHeader) else None
        return base if base in self.headers else None

    def children(self, id: str) -> set[str]:
        """Return the snapshots that began with this one's pages."""
        return {name for name, header in self.headers.items() if isinstance(header, IndexHeader) and header.base == id}

    def map(self, id: str) -> PageMap:
        """Return a snapshot's map.

        :raises PagesDamaged: where its index is missing or damaged.
        :raises PageStoreError: where it cannot be read.
        """
        with self._lock:
            found = self._maps.get(id)
            if found is None:
                found = self._maps[id] = self.read_map(id, INDEX)
                if len(self._maps) > _MAPS_MAX:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(id)
            return found

    def read(self, slots: Slots, out: Bytes) -> None:
        """Read pages into ``out``, and verify every checksum; slot 0 is a page of zeros.

        :param slots: in any order; ascending ones are read fastest.
        :param out: of the shape (len(slots), PAGE), contiguous.
        :raises PagesDamaged: where a page is missing or not what was written; ``out`` then holds anything.
        """
        self.segments.read(slots, out)

    def writer(self, id: str, base: str | None, layout: Layout) -> Writer:
        """Begin to write a snapshot; nothing is there until its commit.

        :param base: the snapshot that it shares pages with: pages that are not put are as there.  With ``None`` they
            are zero.
        :raises PagesDamaged: where the base's index is damaged.
        :raises PageStoreError: where the store is full.
        :raises ValueError: where the id is there, the base is of another layout, or another write goes on.
        """
        if self.writing is not None or not is_id(id) or id in self.headers or id in self.pending:
            raise ValueError(f"{id} cannot be written")
        self.writing = Writer(self, id, None if base is None else self.map(base), layout)
        return self.writing

    def lost(self) -> tuple[tuple[int, int], ...]:
        """Return first slot and number of slots of what snapshots have and no segment holds: its file was lost.

        Nothing else may come to lie there, or they would have pages that are not theirs, and what is whole.
        """
        if self._lost is None:
            self._lost = lost.find(self)
        return self._lost

    def delete(self, id: str) -> None:
        """Delete a snapshot, and give the space back that it alone uses.  Where it is not there, nothing is done.

        Once it has begun it is no snapshot any more.  Where it fails or dies in the middle, delete it again, or open
        the store with ``clean``: both end it.  Where a QEMU maps its pages, its space comes back after that has ended.

        :raises PageStoreError: where the store cannot be written, or holds an index that cannot be read now.
        :raises ValueError: where a write goes on that has it as base.
        """
        if self.writing is not None and self.writing.base_id == id:
            raise ValueError(f"{id} is the base of the snapshot that is being written")
        delete.delete(self, id)

    def runs(self, id: str, block: str) -> Iterator[MapRun]:
        """Yield how to map a block of RAM; see :func:`snaptree.memory.runs.runs`."""
        return runs.runs(self, self.map(id), block)

    def verify(self, id: str, *, content: bool, seen: Seen | None = None) -> list[Damage]:
        """Return everything that is wrong with a snapshot; see :func:`snaptree.memory.verify.verify`."""
        return verify.verify(self, id, content=content, seen=seen)

    def usage(self) -> int:
        """Return how many bytes the store takes on the disk."""
        with disk.failing("The page store cannot be read", self.directory):
            return verify.usage(self.directory)

    def unreferenced(self) -> list[Unused]:
        """Return what no snapshot uses; see :func:`snaptree.memory.verify.unreferenced`."""
        return verify.unreferenced(self)

    def forget(self, id: str) -> None:
        """Forget what was read of a snapshot's index."""
        with self._lock:
            self._maps.pop(id, None)

    def read_header(self, id: str, suffix: str) -> IndexHeader | PageStoreError:
        """Read a header; return what is wrong where that fails."""
        try:
            data = self._bytes(id, suffix, _HEAD_GUESS)
            if header_size(data) > _HEAD_GUESS:
                data = self._bytes(id, suffix, HEADER_MAX)
            return _of(id, parse_header(data))
        except (PageStoreError, OSError) as error:
            return self._named(id, suffix, error)

    def read_map(self, id: str, suffix: str) -> PageMap:
        """Read a map anew."""
        try:
            data = self._bytes(id, suffix, INDEX_MAX + 1)
            header = _of(id, parse_header(data))
            return PageMap(header, parse_root(header, data), self.leaves)
        except (PageStoreError, OSError) as error:
            raise self._named(id, suffix, error) from None

    def _bytes(self, id: str, suffix: str, most: int) -> bytes:
        """Read the beginning of an index."""
        fd = os.open(f"{self.directory}/{id}{suffix}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return disk.read(fd, most if most <= HEADER_MAX else min(most, os.fstat(fd).st_size), 0)
        finally:
            os.close(fd)

    def _named(self, id: str, suffix: str, error: PageStoreError | OSError) -> PageStoreError:
        """Return an error that says which index it is about."""
        path = self.path(id, suffix)
        if isinstance(error, PageStoreError):
            return type(error)(f"{path}: {error.message}", error.remedy)
        if isinstance(error, FileNotFoundError):
            return PagesDamaged(f"{path} is missing: the pages of this snapshot are not there.")
        return PageStoreError(f"{path}: It cannot be read: {error.strerror or error}.")


def _of(id: str, header: IndexHeader) -> IndexHeader:
    if header.id != id:
        raise PagesDamaged(f"It is the index of {header.id}.")
    return header
