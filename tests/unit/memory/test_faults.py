"""Where nothing has faulted nothing was written: whoever writes to a page that is watched is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snaptree.memory import tracker
from snaptree.memory.faults import Faults
from snaptree.memory.kernel import PAGE_SIZE
from snaptree.memory.layout import RAMRegion
from snaptree.memory.ram import GuestRAM

PAGES = 64
TARGET = """
import mmap, os, sys, threading
from snaptree.memory import userfault

pages, size, path, private = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "private"
memory = os.memfd_create("ram")
os.ftruncate(memory, pages * size)
ram = mmap.mmap(memory, pages * size, flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
if not private:
    ram[: pages // 2 * size : size] = b"x" * (pages // 2)  # the other half has no memory
import numpy
address = numpy.frombuffer(ram, numpy.uint8).ctypes.data
watch = userfault.own()
userfault.register(watch, address, pages * size)
print(address, memory, flush=True)
buffered, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY | os.O_DIRECT)

def store(page):
    ram[page * size] = 1

def thread(page):
    other = threading.Thread(target=store, args=(page,))
    other.start()
    other.join()  # it has ended

def read(page, file=buffered):
    with memoryview(ram) as view, view[page * size : (page + 1) * size] as part:
        assert os.preadv(file, [part], 0) == size

ways = {"store": store, "thread": thread, "read": read, "direct": lambda page: read(page, direct)}
for line in sys.stdin:
    way, page = line.split()
    ways[way](int(page))
    print("done", flush=True)
"""


class Target:
    """A process that has RAM, and writes to it when it is told to."""

    def __init__(self, file: Path, kind: str) -> None:
        words = [sys.executable, "-c", TARGET, str(PAGES), str(PAGE_SIZE), str(file), kind]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address, memory = map(int, self.process.stdout.readline().split())
        path = f"/proc/{self.process.pid}/fd/{memory}"
        found, private = os.stat(path), kind == "private"
        size = PAGES * PAGE_SIZE
        self.region = RAMRegion("pc.ram", size, address, path, found.st_dev, found.st_ino, private, private)

    def write(self, way: str, page: int) -> None:
        """Let it write to a page."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{way} {page}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"y" * PAGE_SIZE)
    return path


@pytest.fixture(params=["shared", "private"])
def target(request: pytest.FixtureRequest, file: Path) -> Iterator[Target]:
    target = Target(file, request.param)
    yield target
    target.process.kill()
    target.process.communicate()


@pytest.mark.parametrize("way", ["store", "thread", "read", "direct"])
def test_every_write_is_counted_and_a_process_that_does_nothing_has_touched_nothing(target: Target, way: str) -> None:
    with GuestRAM(target.process.pid, [target.region]) as ram:
        tracked = tracker.choose(target.process.pid, ram, "userfaultfd")
        assert tracked.written_at_most() == tracker.MANY  # what was written before is not known
        tracked.arm()
        assert tracked.written_at_most() == 0
        for page in (3, 3, PAGES - 1, 3):  # the last one has no memory yet
            target.write(way, page)
            assert 0 < tracked.written_at_most() < tracker.MANY
            assert tracked.take().tolist() == [page]
            assert tracked.written_at_most() == 0
        tracked.close()


@pytest.mark.parametrize("few", [True, False])
def test_what_is_written_where_we_have_written_is_counted_too(
    target: Target, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    ours = np.array([3, 4, 9, PAGES - 1])
    monkeypatch.setattr("snaptree.memory.tracker._ARMED_SINGLY", 3 if few else 2)
    with GuestRAM(target.process.pid, [target.region]) as ram:
        tracked = tracker.choose(target.process.pid, ram, "userfaultfd")
        target.write("store", 4)
        tracked.arm()
        tracked.expect(ours)
        ram.scatter(ours, np.full((4, PAGE_SIZE), 7, np.uint8))
        tracked.wrote(ours)
        if few or not target.region.private:
            assert tracked.written_at_most() == 0
            assert tracked.peek(PAGES).tolist() == []
        for page in (4, PAGES - 1):
            target.write("store", page)
            assert tracked.written_at_most() > 0
        taken = tracked.take().tolist()
        assert set(taken) >= {4, PAGES - 1}
        assert not few or taken == [4, PAGES - 1]
        assert tracked.written_at_most() == 0
        tracked.close()


def test_comparing_knows_nothing(target: Target) -> None:
    with GuestRAM(target.process.pid, [target.region]) as ram:
        tracked = tracker.choose(target.process.pid, ram, "compare")
        tracked.arm()
        tracked.wrote(np.array([3]))
        assert tracked.written_at_most() == tracker.MANY


def test_a_process_that_is_gone_is_an_error(target: Target) -> None:
    faults = Faults(target.process.pid)
    assert faults.count() > 0
    target.process.kill()
    target.process.communicate()
    with pytest.raises(ProcessLookupError):
        faults.count()
    faults.close()
    faults.close()
    with pytest.raises(ProcessLookupError):
        Faults(target.process.pid)
