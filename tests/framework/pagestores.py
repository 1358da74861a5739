"""Page stores for tests: small layouts, a model of what they hold, and disks that die.  Not for: measuring.

A *tape* records every system call of the store that changes something, and then gives the directory as it may be after
a power cut at any moment: what was made durable is there, and any part of the rest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from snaptree.memory import disk
from snaptree.memory.pages import PAGE, Bytes, Layout, Pages, RAMBlock, layout_pages
from snaptree.memory.store import PageStore

LAYOUT: Layout = (RAMBlock("pc.ram", 1500 * PAGE), RAMBlock("mem1", 700 * PAGE))
"""Two blocks and three leaves: the border of the blocks lies within a leaf, and the last leaf is not full."""

CHANGING = ("create", "write_all", "punch", "truncate", "sync", "sync_directory", "rename", "unlink")


def sid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def content_of(seeds: Pages) -> Bytes:
    """Return pages that each seed determines; the seed 0 is the page of zeros."""
    found = np.zeros((len(seeds), PAGE), np.uint8)
    words = found.view(np.uint64)
    words[:] = (seeds.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)) * np.arange(1, 513, dtype=np.uint64)
    return found


class Model:
    """What a store must hold: for each snapshot the seed of each page."""

    def __init__(self, layout: Layout = LAYOUT) -> None:
        self.layout = layout
        self.pages = layout_pages(layout)
        self.snapshots: dict[str, Pages] = {}

    def write(self, store: PageStore, id: str, base: str | None, *puts: tuple[Pages, Pages]) -> Pages:
        """Write a snapshot from puts of pages and seeds; return all its seeds, which are not in the model yet."""
        seeds = np.zeros(self.pages, np.int64) if base is None else self.snapshots[base].copy()
        writer = store.writer(id, base, self.layout)
        for pages, new in puts:
            writer.put(pages, content_of(new))
            seeds[pages] = new
        writer.commit()
        return seeds

    def create(self, store: PageStore, id: str, base: str | None, *puts: tuple[Pages, Pages]) -> None:
        self.snapshots[id] = self.write(store, id, base, *puts)

    def create_root_and_child(self, store: PageStore, root: str, child: str) -> None:
        """Create a root with pages in all of its leaves, and a child that shares most of them."""
        p = pages_of(range(60), 1030, range(1490, 1510), 2199)
        self.create(store, root, None, (p, 1 + p % 9))
        p = pages_of(range(10, 20), 1500, 1600)
        self.create(store, child, root, (p, 20 + p % 9))

    def check(self, store: PageStore, ids: set[str] | None = None) -> None:
        """Compare every byte of these snapshots, or of all."""
        for id in self.snapshots if ids is None else ids:
            read = read_all(store, id)
            wrong = np.flatnonzero((read != content_of(self.snapshots[id])).any(axis=1))
            assert not len(wrong), f"{id}: pages {wrong[:5]} differ"
            assert store.map(id).stored_count == np.count_nonzero(self.snapshots[id])


def read_all(store: PageStore, id: str) -> Bytes:
    map = store.map(id)
    out = np.full((map.pages, PAGE), 0xAA, np.uint8)
    store.read(map.slots(np.arange(map.pages, dtype=np.int64)), out)
    return out


def pages_of(*ranges: int | range) -> Pages:
    return np.array([p for r in ranges for p in ([r] if isinstance(r, int) else r)], np.int64)


def scattered(rng: random.Random, count: int, total: int) -> Pages:
    """Return pages that are partly in runs and partly alone."""
    found: set[int] = set()
    while len(found) < count:
        start = rng.randrange(total)
        found.update(range(start, min(total, start + rng.choice((1, 1, 2, 40)))))
    return np.array(sorted(found)[:count], np.int64)


class Crash(BaseException):
    """The process died: nothing after it is done.  No Exception, so that nothing cleans up."""


@contextmanager
def replaced(make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace the system calls that change something, each by what ``make`` makes of its name and itself."""
    before = {name: getattr(disk, name) for name in CHANGING}
    try:
        for name, call in before.items():
            setattr(disk, name, make(name, call))
        yield
    finally:
        for name, call in before.items():
            setattr(disk, name, call)


@contextmanager
def never_synced() -> Iterator[None]:
    """Make nothing durable: no test that ends with its process can tell, and it is much faster."""

    def make(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return (lambda *arguments: None) if name.startswith("sync") else call

    with replaced(make):
        yield


@contextmanager
def dying(after: int, error: type[BaseException] | OSError = Crash) -> Iterator[list[str]]:
    """Let the first ``after`` changing calls happen, and raise ``error`` at each that follows; yield their names."""
    seen: list[str] = []

    def make(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if len(seen) >= after and not (isinstance(error, OSError) and name in ("unlink", "sync_directory")):
                raise error
            seen.append(name)
            return call(*arguments)

        return wrapped

    with replaced(make):
        yield seen


class Tape:
    """Every change that a store makes, in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[tuple[Any, ...]] = []
        self._held: list[int] = []
        self.files: dict[int, bytes] = {}
        self.names: dict[str, int] = {}
        for path in directory.iterdir() if directory.exists() else ():
            self.names[path.name] = number = self._hold(os.open(path, os.O_RDONLY))
            self.files[number] = path.read_bytes()

    def _hold(self, fd: int) -> int:
        """Keep a descriptor, so that the file's number is not given to another; return the number."""
        self._held.append(fd)
        return os.fstat(fd).st_ino

    @contextmanager
    def recording(self) -> Iterator[None]:
        def make(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> Any:
                if name == "unlink":
                    self.calls.append((name, arguments[0].name))
                elif name == "rename":
                    old, new = arguments
                    self.calls.append((name, old.name, new.name, self._hold(os.open(old, os.O_RDONLY))))
                elif name == "sync_directory":
                    self.calls.append((name,))
                elif name == "create":
                    fd: int = call(*arguments)
                    self.calls.append((name, arguments[0].name, self._hold(os.dup(fd))))
                    return fd
                elif name == "write_all":
                    self.calls.append((name, self._number(arguments[0]), b"".join(arguments[1]), arguments[2]))
                else:
                    self.calls.append((name, self._number(arguments[0]), *arguments[1:]))
                return call(*arguments)

            return wrapped

        try:
            with replaced(make):
                yield
        finally:
            for fd in self._held:
                os.close(fd)

    @staticmethod
    def _number(fd: int) -> int:
        return os.fstat(fd).st_ino

    def after_power_cut(self, count: int, rng: random.Random, keep: float) -> dict[str, bytes]:
        """Return the files as they may be when the power fails after ``count`` calls.

        :param keep: how likely each change that was not made durable is there all the same.
        """
        files = {number: bytearray(data) for number, data in self.files.items()}
        names = dict(self.names)
        waiting: list[tuple[Any, ...]] = []
        for call in self.calls[:count]:
            if call[0] in ("sync", "sync_directory"):
                done = [c for c in waiting if self._made_durable(c, call)]
                waiting = [c for c in waiting if not self._made_durable(c, call)]
                for change in done:
                    self._apply(change, files, names)
            else:
                waiting.append(call)
        for call in waiting:
            if rng.random() < keep:
                self._apply(call, files, names)
        return {name: bytes(files.get(number, b"")) for name, number in names.items()}

    @staticmethod
    def _made_durable(change: tuple[Any, ...], by: tuple[Any, ...]) -> bool:
        if by[0] == "sync_directory":
            return change[0] in ("create", "rename", "unlink")
        return change[0] in ("write_all", "punch", "truncate") and bool(change[1] == by[1])

    @staticmethod
    def _apply(call: tuple[Any, ...], files: dict[int, bytearray], names: dict[str, int]) -> None:
        match call:
            case ("create", name, number):
                names[name] = number
            case ("rename", old, new, number):
                if names.get(old) == number:
                    del names[old]
                names[new] = number  # also where the old name never became durable
            case ("unlink", name):
                names.pop(name, None)
            case ("write_all", number, data, offset):
                file = files.setdefault(number, bytearray())
                file.extend(bytes(max(0, offset + len(data) - len(file))))
                file[offset : offset + len(data)] = data
            case ("punch", number, offset, size):
                file = files.setdefault(number, bytearray())
                end = min(len(file), offset + size)
                if offset < end:
                    file[offset:end] = bytes(end - offset)
            case ("truncate", number, size):
                file = files.setdefault(number, bytearray())
                file.extend(bytes(max(0, size - len(file))))
                del file[size:]
