"""An image that is a file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import DamagedImage, ImageChanging, NotQcow2, UnsupportedImage
from snaptree.qcow2.image import Image, list_snapshots
from snaptree.qcow2.vmstate import RamBlock, VMStateHead

Build = Callable[..., bytes]

CLUSTER = 512
COPIED = 1 << 63
DISK = 64 * CLUSTER  # what one L1 entry covers
# A VM state of 65 clusters and a bit: two L2 tables; its first clusters lie backwards, the third is zeros.
HEAD = b"QEVM\0\0\0\3\1\0\0\0\2\3ram" + struct.pack(">IIQ", 0, 4, 4096 | 4) + b"\6pc.ram" + struct.pack(">Q", 4096)
VM_STATE = HEAD.ljust(CLUSTER, b"a") + b"b" * CLUSTER + bytes(CLUSTER * 62) + b"c" * CLUSTER + b"d" * 10


def quads(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


@pytest.fixture
def whole(header: Build, entry: Build, table: Build, image_bytes: Build) -> bytes:
    """An image with a snapshot that holds VM state, and one of the disk only; the active state is the second one."""
    extra = quads(len(VM_STATE), DISK, 2**64 - 1)
    return image_bytes(
        {
            0: header(size=DISK, l1=(CLUSTER, 4), snapshots=(2 * CLUSTER, 2)),
            1: quads(COPIED | 9 * CLUSTER, COPIED | 10 * CLUSTER),
            2: table(
                entry(qemu_id=b"1", tag=b"with", extra=extra, l1=(3 * CLUSTER, 3)),
                entry(qemu_id=b"2", tag=b"without", l1=(11 * CLUSTER, 1)),
            ),
            3: quads(0, COPIED | 4 * CLUSTER, 5 * CLUSTER),
            4: quads(COPIED | 7 * CLUSTER, COPIED | 6 * CLUSTER, 6 * CLUSTER | 1),
            5: quads(12 * CLUSTER, 13 * CLUSTER),
            6: VM_STATE[CLUSTER : 2 * CLUSTER],
            7: VM_STATE[:CLUSTER],
            11: quads(9 * CLUSTER),
            12: b"c" * CLUSTER,
            13: b"d" * CLUSTER,
        }
    )


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    file = tmp_path / "a.qcow2"
    file.write_bytes(whole)
    return file


@pytest.fixture
def image(path: Path) -> Iterator[Image]:
    with Image.open(path) as opened:
        yield opened


class EditedImage(Image):
    """An image whose file a writer changes before the n-th reading: ``edits[n]`` is (offset, bytes)."""

    edits: dict[int, tuple[int, bytes]]
    readings: int

    @classmethod
    def edited(cls, path: Path, edits: dict[int, tuple[int, bytes]]) -> EditedImage:
        opened = cls.open(path)
        opened.edits, opened.readings = edits, 0
        return opened

    def _read(self, offset: int, length: int) -> bytes:
        if hasattr(self, "edits"):
            if edit := self.edits.get(self.readings):
                with open(self.path, "r+b") as file:
                    file.seek(edit[0])
                    file.write(edit[1])
            self.readings += 1
        return super()._read(offset, length)


def test_the_snapshots_of_a_file_are_listed(path: Path) -> None:
    assert [(s.qemu_id, s.tag, s.disk_size) for s in list_snapshots(path)] == [
        ("1", "with", DISK),
        ("2", "without", None),
    ]
    assert list_snapshots(str(path)) == list_snapshots(path)


def test_a_file_that_may_only_be_read_suffices(path: Path) -> None:
    path.chmod(0o400)
    assert list_snapshots(path)


def test_a_long_table_is_read_whole(
    tmp_path: Path, header: Build, entry: Build, table: Build, image_bytes: Build
) -> None:
    tags = [b"%d" % index + b"t" * 3000 for index in range(20)]
    file = tmp_path / "a"
    file.write_bytes(image_bytes({0: header(snapshots=(CLUSTER * 2, 20)), 2: table(*(entry(tag=tag) for tag in tags))}))
    assert [s.tag.encode() for s in list_snapshots(file)] == tags


def test_names_far_behind_the_header_are_found(tmp_path: Path, header: Build) -> None:
    extensions = ((0x12345678, bytes(60_000)), (0xE2792ACA, b"raw"))
    file = tmp_path / "a"
    file.write_bytes(header(cluster_bits=16, l1=(65536, 64), backing=b"base", extensions=extensions).ljust(65536))
    with Image.open(file) as opened:
        assert (opened.header.backing_file, opened.header.backing_format) == ("base", "raw")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = os.listdir("/proc/self/fd")
    for place in (fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(ImageError, match="no regular file"):
            Image.open(place)
    for missing in (str(tmp_path / "x"), "", "a\0b", "\ud800"):
        with pytest.raises(ImageError):
            Image.open(missing)
    assert os.listdir("/proc/self/fd") == before


def test_a_failed_open_leaves_no_descriptor(tmp_path: Path) -> None:
    file = tmp_path / "raw"
    file.write_bytes(bytes(1024))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotQcow2):
        Image.open(file)
    assert os.listdir("/proc/self/fd") == before


def test_a_closed_image_says_so_instead_of_reading_another_file(path: Path) -> None:
    opened = Image.open(path)
    opened.close()
    opened.close()
    with pytest.raises(ImageError, match="cannot be read"):
        opened.snapshots()


def test_a_message_names_the_image_once_and_printably(tmp_path: Path, whole: bytes) -> None:
    file = tmp_path / "a\nb"
    file.write_bytes(whole[: 2 * CLUSTER])
    with pytest.raises(DamagedImage) as caught:
        list_snapshots(file)
    assert caught.value.message.count("a\\nb") == 1
    assert str(caught.value).startswith(f'"{tmp_path}/a\\nb": The image ends inside its snapshot table')


def test_l1_tables_are_host_offsets_without_flags(image: Image) -> None:
    with_vm_state, without = image.snapshots()
    assert image.active_l1() == (9 * CLUSTER, 10 * CLUSTER, 0, 0)
    assert image.snapshot_l1(with_vm_state) == (0, 4 * CLUSTER, 5 * CLUSTER)
    assert image.snapshot_l1(without) == (9 * CLUSTER,)


def test_a_disk_is_at_the_snapshot_whose_l1_entries_it_has(image: Image) -> None:
    with_vm_state, without = image.snapshots()
    assert image.is_at(without)
    assert image.is_at(replace(without, disk_size=DISK))
    assert not image.is_at(replace(without, disk_size=DISK + 512))
    assert not image.is_at(with_vm_state)


def test_a_vm_state_is_read_from_any_place(image: Image) -> None:
    snapshot = image.snapshots()[0]
    assert image.read_vm_state(snapshot, 0, len(VM_STATE) + 99) == VM_STATE
    for offset in (0, 1, 511, 512, 1000, DISK - 1, DISK, len(VM_STATE) - 1):
        for length in (0, 1, 513, 40_000):
            assert image.read_vm_state(snapshot, offset, length) == VM_STATE[offset : offset + length]
    assert image.read_vm_state(snapshot, len(VM_STATE), 1) == b""
    assert image.read_vm_state(snapshot, 2**64, 1) == b""


def test_a_vm_state_is_where_the_disk_of_its_time_ends(image: Image) -> None:
    snapshot = image.snapshots()[0]
    assert image.read_vm_state(replace(snapshot, disk_size=None), 0, 9) == VM_STATE[:9]
    assert image.read_vm_state(replace(snapshot, disk_size=DISK + 1, vm_state_size=9), 0, 9) == b"c" * 9


def test_a_part_before_the_vm_state_is_a_mistake_of_the_caller(image: Image) -> None:
    with pytest.raises(ValueError, match="-1"):
        image.read_vm_state(image.snapshots()[0], -1, 1)


def test_the_head_of_a_vm_state_is_read(image: Image) -> None:
    with_vm_state, without = image.snapshots()
    assert image.vm_state_head(with_vm_state) == VMStateHead("", frozenset(), (RamBlock("pc.ram", 4096),))
    assert image.vm_state_head(without) is None


@pytest.mark.parametrize(
    "lie",
    [
        {"l1_offset": 3 * CLUSTER + 8},
        {"l1_offset": 2**63},
        {"l1_offset": 2**40},
        {"l1_entries": 2**32 - 1},
        {"l1_entries": 1},
        {"disk_size": 2**64 - 1},
        {"l1_offset": 6 * CLUSTER},
    ],
)
def test_an_impossible_snapshot_is_damage_where_its_vm_state_is_read(image: Image, lie: dict[str, int]) -> None:
    with pytest.raises(DamagedImage, match="with"):
        image.vm_state_head(replace(image.snapshots()[0], **lie))  # type: ignore[arg-type]


def test_an_immense_vm_state_costs_no_more_than_is_asked_for(image: Image) -> None:
    snapshot = replace(image.snapshots()[0], vm_state_size=2**64 - 1)
    assert len(image.read_vm_state(snapshot, 0, 65536)) == 65536
    with pytest.raises(DamagedImage, match="behind its L1 table"):
        image.read_vm_state(snapshot, 2**60, 1)


def test_an_encrypted_image_lists_but_keeps_its_vm_state(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))
    with Image.open(path) as opened:
        assert opened.header.crypt_method == 2
        with pytest.raises(UnsupportedImage, match='snapshot "with": It is encrypted'):
            opened.vm_state_head(opened.snapshots()[0])


def test_a_table_that_is_switched_meanwhile_is_read_again(path: Path, entry: Build) -> None:
    new = struct.pack(">IQ", 1, 14 * CLUSTER)
    with open(path, "ab") as file:
        file.write(entry(tag=b"new").ljust(CLUSTER))
    # Readings: table, header, table; `open` has read the header.  It is switched before the first one, the second one.
    for reading in range(2):
        path_before = path.read_bytes()
        with EditedImage.edited(path, {reading: (60, new)}) as opened:
            assert [s.tag for s in opened.snapshots()] == ["new"]
            assert opened.header.nb_snapshots == 1
        path.write_bytes(path_before)


def test_a_table_that_is_overwritten_meanwhile_is_read_again(path: Path, entry: Build) -> None:
    other = entry(qemu_id=b"9", tag=b"htiw", extra=bytes(24))
    for reading in (0, 2):
        path_before = path.read_bytes()
        with EditedImage.edited(path, {reading: (2 * CLUSTER, other)}) as opened:
            assert [s.tag for s in opened.snapshots()] == ["htiw", "without"]
        path.write_bytes(path_before)


def test_a_torn_table_is_no_damage(path: Path, whole: bytes) -> None:
    table = whole[2 * CLUSTER : 3 * CLUSTER]
    edits = {0: (2 * CLUSTER, b"\xff" * CLUSTER), 1: (2 * CLUSTER, table)}
    with EditedImage.edited(path, edits) as opened:
        assert len(opened.snapshots()) == 2


def test_a_table_that_is_as_it_was_known_is_read_once(path: Path, entry: Build) -> None:
    with Image.open(path) as opened:
        known = opened.snapshot_table()
    with EditedImage.edited(path, {}) as opened:
        assert opened.snapshot_table(known) is known
        assert opened.readings == 1
        assert opened.snapshot_table(known) is known
        assert opened.readings == 3  # the header too: it may be long ago that the image was opened
    other = entry(qemu_id=b"9", tag=b"htiw", extra=bytes(24))
    for reading in (0, 1, 2):
        path_before = path.read_bytes()
        with EditedImage.edited(path, {reading: (2 * CLUSTER, other)}) as opened:
            tags = [s.tag for s in opened.snapshots(known)]
            assert tags == (["htiw", "without"] if reading == 0 else ["with", "without"])
            assert [s.tag for s in opened.snapshots(known)] == ["htiw", "without"]
        path.write_bytes(path_before)
    new = struct.pack(">IQ", 1, 14 * CLUSTER)
    with open(path, "ab") as file:
        file.write(entry(tag=b"new").ljust(CLUSTER))
    with EditedImage.edited(path, {1: (60, new)}) as opened:
        assert opened.snapshot_table(known) is known
        assert [s.tag for s in opened.snapshots(known)] == ["new"]


def test_damage_that_stays_is_damage(path: Path) -> None:
    with EditedImage.edited(path, {0: (2 * CLUSTER, b"\xff" * CLUSTER)}) as opened:
        with pytest.raises(DamagedImage, match="extra data"):
            opened.snapshots()
        assert opened.readings < 10


def test_a_table_that_never_rests_is_given_up(path: Path) -> None:
    edits = {reading: (60, struct.pack(">IQ", reading // 2 % 2 + 1, 2 * CLUSTER)) for reading in range(1000)}
    with EditedImage.edited(path, edits) as opened:
        with pytest.raises(ImageChanging, match="changes all the time"):
            opened.snapshots()
        assert opened.readings < 100


def test_an_l1_table_that_moves_meanwhile_is_read_again(path: Path) -> None:
    moved = struct.pack(">IQ", 3, 3 * CLUSTER)
    with EditedImage.edited(path, {1: (36, moved)}) as opened:
        assert opened.active_l1() == (0, 4 * CLUSTER, 5 * CLUSTER)
    edits = {n: (36, struct.pack(">IQ", n % 4 // 2 + 1, CLUSTER)) for n in range(0, 1000, 2)}
    with EditedImage.edited(path, edits) as opened, pytest.raises(ImageChanging, match="moves all the time"):
        opened.active_l1()


def problem_of(path: Path) -> str:
    """Read all there is to read in an image; return what the ImageError says that came of it."""
    try:
        with Image.open(path) as opened:
            opened.active_l1()
            for snapshot in opened.snapshots():
                opened.is_at(snapshot)
                opened.vm_state_head(snapshot)
                opened.read_vm_state(snapshot, 0, 100_000)
    except ImageError as error:
        return error.message
    return ""


changed_file = settings(
    derandomize=True,
    deadline=None,
    max_examples=5 * settings().max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@changed_file
@given(changes=st.lists(st.tuples(st.integers(0, 14 * CLUSTER - 1), st.integers(0, 255)), max_size=6))
def test_whatever_is_in_an_image_no_other_error_comes_out(
    path: Path, whole: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at] = value
    path.write_bytes(data)
    problem = problem_of(path)
    assert not problem or problem.startswith(f'"{path}"')


@changed_file
@given(length=st.integers(0, 13 * CLUSTER))
def test_an_image_that_is_cut_is_damaged_or_no_qcow2(path: Path, whole: bytes, length: int) -> None:
    path.write_bytes(whole[:length])
    assert problem_of(path).startswith(f'"{path}"')
