"""The differing ranges are those of the raw disks that qemu-img makes of the two snapshots."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from snaptree.qcow2.differ import GRAIN, Run, differing
from snaptree.qcow2.image import Image

SIZE = 8 << 20  # with small clusters several L2 tables


def qemu_io(image: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", *words, str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout + done.stderr


def told(image: Path, one: str, other: str) -> list[Run]:
    with Image.open(image) as opened:
        tags = {snapshot.tag: snapshot for snapshot in opened.snapshots()}
        return list(differing(opened, tags[one], tags[other]))


def raw(qemu_img: Callable[..., str], image: Path, tag: str) -> bytes:
    path = image.with_suffix(f".{tag}.raw")
    qemu_img("convert", "-l", f"snapshot.name={tag}", "-O", "raw", image, path)
    return path.read_bytes()


def expected(one: bytes, other: bytes, grain: int) -> list[Run]:
    runs: list[Run] = []
    for start in range(0, len(one), grain):
        if one[start : start + grain] != other[start : start + grain]:
            if runs and sum(runs[-1]) == start:
                runs[-1] = Run(runs[-1].offset, runs[-1].length + grain)
            else:
                runs.append(Run(start, grain))
    return runs


@pytest.mark.parametrize(
    "options",
    [
        "cluster_size=64k",
        "cluster_size=4k",
        "cluster_size=512",
        "cluster_size=2M",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=64k,compat=0.10",
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_exactly_what_differs_is_told(qemu_img: Callable[..., str], tmp_path: Path, options: str, seed: int) -> None:
    draw = random.Random(f"{options} {seed}")
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, SIZE)

    def write(count: int) -> None:
        commands = []
        for _ in range(count):
            offset, length = draw.randrange(0, SIZE, 4096), draw.choice([512, 4096, 100 * 512, 1 << 18])
            length = min(length, SIZE - offset)
            # Few patterns, so that the same content comes back at another place.
            what = draw.choice(["write -P 1", "write -P 2", "write -P 0", "write -z", "write -z -u", "discard"])
            commands.append(f"{what} {offset} {length}")
        qemu_io(image, *commands)

    for tag in ("one", "two", "three"):
        write(20)
        qemu_img("snapshot", "-c", tag, image)
    write(5)
    grain = min(GRAIN, 512 if options.endswith("512") else GRAIN)
    if "extended" in options:
        grain = 2048
    disks = {tag: raw(qemu_img, image, tag) for tag in ("one", "two", "three")}
    for one, other in (("one", "two"), ("two", "one"), ("one", "three"), ("three", "three")):
        assert told(image, one, other) == expected(disks[one], disks[other], grain)


def test_compressed_clusters_are_read(qemu_img: Callable[..., str], tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, SIZE)
    qemu_io(image, "write -c -P 7 0 128k", "write -c -P 8 1M 64k", "write -P 9 2M 64k")
    qemu_img("snapshot", "-c", "one", image)
    # The same again, not compressed; another content; compressed in place of nothing.
    qemu_io(image, "write -P 7 0 128k", "write -P 8 1M 4k", "write -P 5 1028k 4k", "write -c -P 6 3M 64k")
    qemu_img("snapshot", "-c", "two", image)
    assert told(image, "one", "two") == [Run(1028 << 10, 4096), Run(3 << 20, 64 << 10)]
    assert raw(qemu_img, image, "one") != raw(qemu_img, image, "two")


def test_what_is_compressed_by_zstd_may_differ(qemu_img: Callable[..., str], tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", image, SIZE)
    qemu_io(image, "write -c -P 7 0 64k", "write -c -P 7 64k 64k")
    qemu_img("snapshot", "-c", "one", image)
    qemu_io(image, "write -P 7 0 64k")
    qemu_img("snapshot", "-c", "two", image)
    assert told(image, "one", "two") == [Run(0, 64 << 10)]


def test_what_one_reads_from_the_backing_image_may_differ(qemu_img: Callable[..., str], tmp_path: Path) -> None:
    base, image = tmp_path / "base.raw", tmp_path / "a.qcow2"
    base.write_bytes(bytes([3]) * SIZE)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image)
    qemu_io(image, "write -P 4 0 64k", "write -z 1M 64k")
    qemu_img("snapshot", "-c", "one", image)
    qemu_io(image, "write -P 3 64k 64k", "write -P 0 1M 64k")
    qemu_img("snapshot", "-c", "two", image)
    assert told(image, "one", "two") == [Run(64 << 10, 64 << 10)]


def test_the_rest_of_a_disk_that_was_larger_differs(qemu_img: Callable[..., str], tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("snapshot", "-c", "one", image)
    qemu_img("resize", "-q", image, "3M")
    qemu_img("snapshot", "-c", "two", image)
    assert told(image, "one", "two") == told(image, "two", "one") == [Run(1 << 20, 2 << 20)]


def test_vm_state_is_no_part_of_the_disk(
    qemu_img: Callable[..., str],
    tmp_path: Path,
    disk: Callable[..., tuple[str, ...]],
    start_qemu: Callable[..., object],
) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", image, "1M")
    qemu = start_qemu("-m", "16", *disk("a", image))
    qemu.save("one", "a")  # type: ignore[attr-defined]
    qemu.write("a-dev", "write -P 1 512 512")  # type: ignore[attr-defined]
    qemu.save("two", "a")  # type: ignore[attr-defined]
    assert told(image, "one", "two") == [Run(0, 4096)]  # while QEMU runs
