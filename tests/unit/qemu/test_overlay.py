"""Making an overlay: a new file, or none.  What its bytes say is tested with qcow2."""

from __future__ import annotations

from pathlib import Path

import pytest

from snaptree.qcow2.image import Image
from snaptree.qcow2.overlay import overlay
from snaptree.qemu.overlay import write_overlay


def test_an_overlay_is_for_its_owner_only_and_has_all_bytes(tmp_path: Path) -> None:
    path = tmp_path / "o.qcow2"
    write_overlay(path, 512, "json:{}", "raw")
    assert path.read_bytes() == overlay(512, "json:{}", "raw")
    assert path.stat().st_mode & 0o777 == 0o600
    with Image.open(path) as image:
        assert image.header.size == 512


def test_an_image_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.qcow2"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_overlay(path, 512, "a", "raw")
    assert path.read_text() == "mine"


def test_what_cannot_be_an_image_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size"):
        write_overlay(tmp_path / "o.qcow2", 513, "a", "raw")
    assert list(tmp_path.iterdir()) == []
