"""What an overlay's bytes say, read back by the reader; QEMU's own tools judge in tests/functional."""

from __future__ import annotations

from pathlib import Path

import pytest

from snaptree.qcow2.image import Image
from snaptree.qemu.overlay import BACKING_MAX_BYTES, CLUSTER_SIZE, SIZE_MAX_BYTES, overlay, write_overlay


@pytest.mark.parametrize("size", [0, 512, 1 << 29, (1 << 29) + 512, 5 << 40])
def test_an_overlay_has_its_size_its_backing_image_and_maps_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "o.qcow2"
    write_overlay(path, size, "json:{}", "raw")
    with Image.open(path) as image:
        header = image.header
        assert (header.size, header.backing_file, header.backing_format) == (size, "json:{}", "raw")
        assert not any(image.active_l1())
        assert image.snapshots() == ()
    assert path.stat().st_size % CLUSTER_SIZE == 0
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("size", "backing"),
    [(513, "a"), (-512, "a"), (SIZE_MAX_BYTES + 512, "a"), (512, ""), (512, "a" * (BACKING_MAX_BYTES + 1))],
)
def test_what_cannot_be_in_an_image_is_refused(size: int, backing: str) -> None:
    with pytest.raises(ValueError, match=r"size|name"):
        overlay(size, backing, "raw")


def test_an_image_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.qcow2"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_overlay(path, 512, "a", "raw")
    assert path.read_text() == "mine"
