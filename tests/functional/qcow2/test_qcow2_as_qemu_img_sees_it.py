"""Images of every kind that qemu-img makes: what is read in them is what qemu-img says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from snaptree.model.errors import ImageError
from snaptree.qcow2.errors import DamagedImage, NotQcow2, UnsupportedImage
from snaptree.qcow2.image import Image, list_snapshots

QemuImg = Callable[..., str]

TAGS = ("plain", "1", "with space", "ünïcode", "before@3fab28c9-a6bd-4659-b9bc-683780d8a2d5^" + "0" * 36, "x" * 255)

VARIANTS = {
    "version 2": "compat=0.10",
    "version 3": "compat=1.1",
    "clusters of 512 bytes": "cluster_size=512",
    "clusters of 4 KiB, version 2": "compat=0.10,cluster_size=4k",
    "clusters of 2 MiB": "cluster_size=2M",
    "extended L2": "extended_l2=on",
    "extended L2, clusters of 16 KiB": "extended_l2=on,cluster_size=16k",
    "zstd": "compression_type=zstd",
    "lazy refcounts": "lazy_refcounts=on",
    "refcounts of 1 bit": "refcount_bits=1",
    "refcounts of 64 bits": "refcount_bits=64",
    "metadata preallocated": "preallocation=metadata",
}


def info_of(qemu_img: QemuImg, image: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qemu_img("info", "--output=json", image))
    return found


def check_header(qemu_img: QemuImg, image: Path) -> None:
    info = info_of(qemu_img, image)
    data = info["format-specific"]["data"]
    with Image.open(image) as opened:
        header = opened.header
    assert header.size == info["virtual-size"]
    assert header.cluster_size == info["cluster-size"]
    assert header.version == {"0.10": 2, "1.1": 3}[data["compat"]]
    assert header.compression_type == data["compression-type"]
    assert header.extended_l2 == data.get("extended-l2", False)
    assert header.corrupt == data.get("corrupt", False)
    assert header.dirty == info.get("dirty-flag", False)
    assert header.data_file == data.get("data-file")
    assert header.external_data_file == ("data-file" in data)
    assert header.backing_file == info.get("backing-filename")
    assert header.backing_format == info.get("backing-filename-format")
    assert bool(header.crypt_method) == info.get("encrypted", False)


def check_snapshots(qemu_img: QemuImg, image: Path, size: int, *opening: str) -> None:
    """Compare the snapshot tables; ``opening`` are qemu-img's arguments where the image's name does not do."""
    expected = info_of(qemu_img, image).get("snapshots", [])
    found = list_snapshots(image)
    assert [
        {
            "id": s.qemu_id,
            "name": s.tag,
            "date-sec": s.date_ns // 10**9,
            "date-nsec": s.date_ns % 10**9,
            "vm-clock-sec": s.vm_clock_ns // 10**9,
            "vm-clock-nsec": s.vm_clock_ns % 10**9,
            "vm-state-size": s.vm_state_size,
            **({} if s.icount is None else {"icount": s.icount}),
        }
        for s in found
    ] == expected
    assert {s.disk_size for s in found} <= {size}
    listed = qemu_img("snapshot", "-l", *(opening or (image,))).splitlines()[2:]
    assert len(listed) == len(found)
    for line, snapshot in zip(listed, found, strict=True):
        assert line.startswith(snapshot.qemu_id)
        assert f" {snapshot.tag} " in line


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_reads_as_qemu_img_reads_it(tmp_path: Path, qemu_img: QemuImg, options: str) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "5M")
    check_header(qemu_img, image)
    check_snapshots(qemu_img, image, 5 << 20)
    with Image.open(image) as opened:
        for tag in TAGS if "refcount_bits=1" not in options else ():
            qemu_img("snapshot", "-c", tag, image)
            assert opened.snapshots()[-1].tag == tag
            assert opened.is_at(opened.snapshots()[-1])
    check_header(qemu_img, image)
    check_snapshots(qemu_img, image, 5 << 20)
    if "refcount_bits=1" not in options:
        qemu_img("snapshot", "-d", "with space", image)
        check_snapshots(qemu_img, image, 5 << 20)


def test_backing_files_are_named_as_written(tmp_path: Path, qemu_img: QemuImg) -> None:
    base, image = tmp_path / "base", tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "raw", base, "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", image)
    check_header(qemu_img, image)
    with Image.open(image) as opened:
        assert (opened.header.backing_file, opened.header.backing_format) == ("base", "raw")


def test_an_external_data_file_is_named(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data,data_file_raw=on", image, "1M")
    check_header(qemu_img, image)
    assert list_snapshots(image) == ()


@pytest.mark.parametrize(("kind", "number"), [("luks", 2), ("aes", 1)])
def test_encrypted_images_list_their_snapshots(tmp_path: Path, qemu_img: QemuImg, kind: str, number: int) -> None:
    image = tmp_path / "a.qcow2"
    secret = ("--object", "secret,id=key,data=abcd1234")
    options = f"encrypt.format={kind},encrypt.key-secret=key" + (",encrypt.iter-time=10" if kind == "luks" else "")
    for _ in range(20):
        # To choose its iterations qemu-img measures the CPU, and gives up where the host is too busy for it.
        with suppress(AssertionError):
            qemu_img("create", "-q", *secret, "-f", "qcow2", "-o", options, image, "1M")
            break
    check_header(qemu_img, image)
    opening = (*secret, "--image-opts", f"driver=qcow2,encrypt.key-secret=key,file.filename={image}")
    qemu_img("snapshot", "-c", "one", *opening)
    check_snapshots(qemu_img, image, 1 << 20, *opening)
    with Image.open(image) as opened:
        assert opened.header.crypt_method == number


def test_many_snapshots_are_all_read(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    for index in range(40):
        qemu_img("snapshot", "-c", f"{index:03}" + "t" * 250, image)
    check_snapshots(qemu_img, image, 1 << 20)


def test_a_resized_disk_leaves_the_size_of_its_snapshots(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("snapshot", "-c", "small", image)
    with Image.open(image) as opened:
        qemu_img("resize", "-q", image, "2G")
        (small,) = opened.snapshots()
        assert (small.disk_size, opened.header.size) == (1 << 20, 2 << 30)
        assert not opened.is_at(small)
        qemu_img("snapshot", "-a", "small", image)
        assert opened.is_at(small)
        assert opened.header.size == 1 << 20


@pytest.mark.parametrize("kind", ["raw", "vmdk", "qcow", "qed", "vdi"])
def test_other_formats_are_told_apart(tmp_path: Path, qemu_img: QemuImg, kind: str) -> None:
    image = tmp_path / "a"
    qemu_img("create", "-q", "-f", kind, image, "1M")
    # Version 1 has qcow2's magic; QEMU calls it another format.
    with pytest.raises(UnsupportedImage if kind == "qcow" else NotQcow2):
        Image.open(image)


def test_what_qemu_img_calls_damaged_is_an_image_error(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("snapshot", "-c", "one", image)
    whole = image.read_bytes()
    # (offset in the header, value): cluster_bits, l1_size, l1_table_offset, nb_snapshots, snapshots_offset, features
    for at, value in ((23, 30), (39, 0), (47, 9), (60, 1), (71, 1), (72, 0x80), (99, 9), (100, 1), (103, 1)):
        damaged = bytearray(whole)
        damaged[at] = value
        image.write_bytes(damaged)
        with pytest.raises(AssertionError):
            qemu_img("info", image)
        with pytest.raises(ImageError):
            list_snapshots(image)


def test_a_snapshot_table_behind_the_end_is_damage(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    with open(image, "r+b") as file:
        file.seek(60)
        file.write((3).to_bytes(4, "big") + (1 << 40).to_bytes(8, "big"))
    with pytest.raises(DamagedImage, match="entry 0 of 3"):
        list_snapshots(image)
