"""A region is where a file's first byte is mapped shared; what cannot be one is told with its reason."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.memory.own import OwnRAM

from snaptree.memory.kernel import PAGE_SIZE
from snaptree.memory.layout import Backend, covers, find_regions, parse_maps

MAPS = """\
55d0c4a00000-55d0c4c00000 r-xp 00000000 08:01 1234                       /usr/bin/qemu-system-x86_64
7f0000000000-7f0000004000 rw-s 00000000 00:01 99                         /memfd:snaptree:pc.ram (deleted)
7f0000004000-7f0000006000 rw-p 00004000 103:02 100                       /a path/with spaces
7f0000006000-7f0000008000 rw-s 00006000 00:01 99                         /memfd:snaptree:pc.ram (deleted)
7f0000009000-7f000000a000 rw-p 00000000 00:00 0
"""


@contextmanager
def mapped(path: Path, pages: int, flags: int) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, pages * PAGE_SIZE)
    mapping = mmap.mmap(file, pages * PAGE_SIZE, flags)
    os.close(file)
    try:
        yield
    finally:
        mapping.close()


def reason(backend: Backend) -> str:
    regions, reasons = find_regions(os.getpid(), [backend])
    assert regions == ()
    (found,) = reasons
    assert found.code == "ram-not-shared"
    assert found.remedy
    return found.message


def test_maps_are_read_as_the_kernel_writes_them() -> None:
    lines = parse_maps(MAPS)
    assert [line.private for line in lines] == [True, False, True, False, True]
    assert lines[2].name == "/a path/with spaces"
    assert lines[2].device == (0x103, 2)
    assert lines[4].name == ""
    assert (lines[3].start, lines[3].end, lines[3].offset, lines[3].inode) == (
        0x7F0000006000,
        0x7F0000008000,
        0x6000,
        99,
    )


@pytest.mark.parametrize(
    ("start", "end", "number"),
    [
        (0x7F0000000000, 0x7F0000008000, 3),
        (0x7F0000001000, 0x7F0000005000, 2),
        (0x7F0000000000, 0x7F0000009000, None),  # a gap at the end
        (0x7F0000000000, 0x7F000000A000, None),  # a gap in the middle
        (0x7EFFFFFFF000, 0x7F0000008000, None),  # a gap at the beginning
    ],
)
def test_a_range_with_a_gap_is_not_mapped(start: int, end: int, number: int | None) -> None:
    found = covers(parse_maps(MAPS), start, end)
    assert (None if found is None else len(found)) == number


@pytest.mark.parametrize("form", ["/proc/self/fd/{fd}", "/dev/fd/{fd}", "/proc/{pid}/fd/{fd}"])
def test_a_memfd_is_found_by_its_descriptor(form: str) -> None:
    with OwnRAM(4) as own:
        regions, reasons = find_regions(
            os.getpid(), [Backend("pc.ram", form.format(fd=own.fd, pid=os.getpid()), own.pages.nbytes)]
        )
        assert regions == (own.region(),)
        assert reasons == ()


def test_a_file_of_the_user_is_found_by_its_path() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, mapped(Path(folder) / "ram", 4, mmap.MAP_SHARED):
        (region,), reasons = find_regions(os.getpid(), [Backend("ram", f"{folder}/ram", 4 * PAGE_SIZE)])
        assert (region.size, region.inode, reasons) == (4 * PAGE_SIZE, os.stat(f"{folder}/ram").st_ino, ())


def test_a_file_that_qemu_made_in_a_folder_is_found_by_its_name() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "qemu_back_mem._objects_ram.aBcDeF"
        with mapped(path, 4, mmap.MAP_SHARED):
            keeps_it_open = os.open(path, os.O_RDWR)
            path.unlink()
            (region,), reasons = find_regions(os.getpid(), [Backend("/objects/ram", folder, 4 * PAGE_SIZE)])
            os.close(keeps_it_open)
            assert (region.size, reasons) == (4 * PAGE_SIZE, ())


def test_ram_that_is_not_in_a_shared_file_is_told() -> None:
    assert "pc.ram is not in a file" in reason(Backend("pc.ram", None, 4096))
    assert "cannot be opened: No such file" in reason(Backend("ram", "/nowhere/ram", 4096))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, mapped(Path(folder) / "ram", 4, mmap.MAP_PRIVATE):
        assert "but not shared" in reason(Backend("ram", f"{folder}/ram", 4 * PAGE_SIZE))
    with OwnRAM(4) as own:
        assert "one piece of 32768 bytes" in reason(Backend("pc.ram", f"/proc/self/fd/{own.fd}", 8 * PAGE_SIZE))


def test_a_region_that_private_mappings_cover_is_found_where_it_was() -> None:
    with OwnRAM(4) as own:
        unmapped = os.memfd_create("snaptree:dimm0")
        os.ftruncate(unmapped, 2 * PAGE_SIZE)
        backends = [
            Backend("dimm0", f"/proc/self/fd/{unmapped}", 2 * PAGE_SIZE),
            Backend("pc.ram", f"/proc/self/fd/{own.fd}", 4 * PAGE_SIZE),
        ]
        assert find_regions(os.getpid(), backends)[0] == (own.region(),)
        (dimm, low), _ = find_regions(os.getpid(), backends, {"dimm0": own.address + PAGE_SIZE})
        os.close(unmapped)
        assert low == own.region()
        assert (dimm.block, dimm.address) == ("dimm0", own.address + PAGE_SIZE)
