"""Images that a real QEMU has open: VM states, and which snapshot a disk is at."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snaptree.qcow2.image import Image, list_snapshots
from snaptree.qcow2.mapping import same_state
from snaptree.qcow2.table import ImageSnapshot
from snaptree.qcow2.vmstate import IGNORE_SHARED

QemuImg = Callable[..., str]
Start = Callable[..., Any]
Disk = Callable[..., tuple[str, ...]]

RAM = 16 << 20
PAGE = 4096
VARIANTS = [
    "cluster_size=64k",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=512",
    "cluster_size=2M",
    "compat=0.10",
    "cluster_size=4k,lazy_refcounts=on",
]


def shared_ram(file: Path) -> tuple[str, ...]:
    backend = f"memory-backend-file,id=pc.ram,size={RAM},share=on,mem-path={file}"
    return ("-m", f"{RAM >> 20}M", "-object", backend, "-machine", "pc,memory-backend=pc.ram")


def entry(image: Image, tag: str) -> ImageSnapshot:
    (found,) = [snapshot for snapshot in image.snapshots() if snapshot.tag == tag]
    return found


@pytest.fixture
def ram_file(tmp_path: Path) -> Path:
    """RAM whose second half is 1,000 pages that are each like no other."""
    file = tmp_path / "ram"
    pages = random.Random(1)
    with open(file, "wb") as written:
        os.truncate(written.fileno(), RAM)
        written.seek(RAM // 2)
        for _ in range(1000):
            written.write(pages.randbytes(PAGE))
    return file


@pytest.mark.parametrize("options", VARIANTS)
def test_a_vm_state_is_read_to_its_last_byte(
    tmp_path: Path, qemu_img: QemuImg, start_qemu: Start, disk: Disk, ram_file: Path, options: str
) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "40M")
    qemu = start_qemu(*shared_ram(ram_file), *disk("a", path))
    qemu.write("a-dev", "write -P 7 1M 3M")
    qemu.save("full", "a")
    qemu.ignore_shared(True)
    qemu.save("without RAM", "a")
    qemu.ignore_shared(False)
    if "0.10" not in options:  # version 2 cannot be resized with snapshots
        qemu.execute("block_resize", node_name="a", size=50 << 20)
    (machine,) = [m["name"] for m in qemu.execute("query-machines") if m.get("is-default")]
    pages = ram_file.read_bytes()[RAM // 2 : RAM // 2 + 1000 * PAGE]

    with Image.open(path) as image:
        for tag, capabilities, held in (("full", set(), 1000), ("without RAM", {IGNORE_SHARED}, 0)):
            snapshot = entry(image, tag)
            head = image.vm_state_head(snapshot)
            assert head is not None
            assert (head.machine, set(head.capabilities)) == (machine, capabilities)
            sizes = {block.name: block.size for block in head.ram_blocks}
            assert sizes["pc.ram"] == RAM
            assert "pc.bios" in sizes

            stream = image.read_vm_state(snapshot, 0, snapshot.vm_state_size)
            assert len(stream) == snapshot.vm_state_size
            assert sum(pages[at : at + PAGE] in stream for at in range(0, len(pages), PAGE)) == held
            # It ends with a description of itself, in JSON.
            *_, description = re.finditer(rb'\{"(configuration|page_size)"', stream)
            assert json.loads(stream[description.start() :])["devices"]
            step = 99_999
            parts = [image.read_vm_state(snapshot, at, step) for at in range(0, len(stream), step)]
            assert b"".join(parts) == stream


def test_a_device_with_an_early_section_does_not_hide_the_ram(
    tmp_path: Path, qemu_img: QemuImg, start_qemu: Start, disk: Disk
) -> None:
    # From QEMU 8.0 on virtio-mem writes one, before the RAM's pages.
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    backend = ("-m", "16M,maxmem=1G", "-object", "memory-backend-ram,id=more,size=128M")
    qemu = start_qemu(*backend, "-device", "virtio-mem-pci,id=vm0,memdev=more", *disk("a", path))
    qemu.save("one", "a")
    with Image.open(path) as image:
        head = image.vm_state_head(entry(image, "one"))
    assert head is not None
    assert 128 << 20 in [block.size for block in head.ram_blocks], head


@pytest.mark.parametrize("cache", ["", ",cache.direct=on,file.cache.direct=on"], ids=["page cache", "O_DIRECT"])
@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=64k,extended_l2=on", "cluster_size=4k"])
def test_the_image_says_at_once_which_snapshot_a_disk_is_at(
    tmp_path: Path, qemu_img: QemuImg, start_qemu: Start, disk: Disk, options: str, cache: str
) -> None:
    for name in "ab":
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, tmp_path / name, "64M")
    qemu = start_qemu("-m", "16M", *disk("a", tmp_path / "a", cache), *disk("b", tmp_path / "b", cache))

    with Image.open(tmp_path / "a") as a, Image.open(tmp_path / "b") as b:

        def at(tag: str) -> tuple[bool, bool]:
            return a.is_at(entry(a, tag)), b.is_at(entry(b, tag))

        qemu.save("empty", "a", "b")
        assert at("empty") == (True, True)
        qemu.write("b-dev", "write -P 1 0 64k")
        assert at("empty") == (True, False)
        qemu.write("a-dev", "write -P 1 1M 64k")
        assert at("empty") == (False, False)
        qemu.save("one", "a", "b")
        assert at("one") == (True, True)
        assert at("empty") == (False, False)
        for change in ("write -P 2 0 512", "write -P 1 0 64k", "write -z 0 4k", "write -z -u 0 64k", "discard 0 64k"):
            qemu.write("b-dev", change)
            assert at("one") == (True, False), change
            qemu.load("one", "a", "b")
            assert at("one") == (True, True), change
        qemu.load("empty", "a", "b")
        assert at("empty") == (True, True)
        assert at("one") == (False, False)
        for size in (128 << 20, 4 << 30):
            qemu.execute("block_resize", node_name="a", size=size)
            assert at("empty") == (False, True)
        qemu.load("one", "a", "b")
        assert at("one") == (True, True)
        # Two snapshots with no write between them are one state of the disk.
        qemu.save("two", "a", "b")
        assert at("one") == at("two") == (True, True)
        qemu.run_job("snapshot-delete", tag="one", devices=["a", "b"])
        assert at("two") == (True, True)


def test_a_save_takes_the_vm_state_out_of_the_active_table_and_a_load_brings_it_back(
    tmp_path: Path, qemu_img: QemuImg, start_qemu: Start, disk: Disk
) -> None:
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "a", "64M")
    qemu = start_qemu("-m", "16M", *disk("a", tmp_path / "a"))
    qemu.save("one", "a")
    with Image.open(tmp_path / "a") as image:
        one = entry(image, "one")
        assert not same_state(image.active_l1(), image.snapshot_l1(one))
        assert image.is_at(one)
        qemu.load("one", "a")
        assert same_state(image.active_l1(), image.snapshot_l1(one))


def test_a_list_is_whole_at_every_moment_while_qemu_saves_and_deletes(
    tmp_path: Path, qemu_img: QemuImg, start_qemu: Start, disk: Disk
) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
    qemu = start_qemu("-m", "16M", *disk("a", path))
    padding = "t" * 200
    tags = [f"{number}{padding}" for number in range(12)]

    def work() -> None:
        for _ in range(2):
            for tag in tags:
                qemu.execute("blockdev-snapshot-internal-sync", device="a", name=tag)
            for tag in tags:
                qemu.execute("blockdev-snapshot-delete-internal-sync", device="a", name=tag)

    worker = threading.Thread(target=work)
    worker.start()
    lists = []
    while worker.is_alive():
        lists.append(list_snapshots(path))
    worker.join()
    for found in lists:
        names = [snapshot.tag for snapshot in found]
        assert names in (tags[: len(names)], tags[len(tags) - len(names) :])
    assert list_snapshots(path) == ()
