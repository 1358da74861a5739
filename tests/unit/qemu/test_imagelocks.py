"""Holding images: all or none, and against whoever has one open."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from snaptree.model.errors import Refused
from snaptree.qemu.imagelocks import held, in_use


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(b"")
    return [str(path) for path in paths]


def lock(file: str, byte: int) -> int:
    """Take a read lock on one byte, as a QEMU does."""
    fd = os.open(file, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hh4xqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    return fd


def test_two_cannot_hold_one_image(images: list[str]) -> None:
    with held(images), pytest.raises(Refused, match="in use"), held(images[1:]):
        pass
    with held(images):
        pass


# Whoever writes (101) or resizes (103); whoever lets nobody write (201) or resize (203), as a reader does.
@pytest.mark.parametrize("byte", [101, 103, 200, 201, 203])
def test_whoever_has_one_image_open_keeps_all_of_them_from_being_held(images: list[str], byte: int) -> None:
    fd = lock(images[1], byte)
    with pytest.raises(Refused, match="in use") as failure, held(images):
        pass
    assert images[1] in failure.value.message
    with held(images[:1]):
        pass
    os.close(fd)
    with held(images):
        pass


@pytest.mark.parametrize("byte", [100, 101, 103, 203, 263])
def test_an_image_that_somebody_has_open_as_qemu_has_is_in_use(images: list[str], byte: int) -> None:
    assert not in_use(images[0])
    fd = lock(images[0], byte)
    assert in_use(images[0])
    assert not in_use(images[1])
    os.close(fd)
    assert not in_use(images[0])


def test_an_image_that_is_not_there_is_not_in_use(images: list[str]) -> None:
    assert not in_use(images[0] + "-gone")


def test_an_image_that_is_not_there_is_refused_and_nothing_stays_held(images: list[str]) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Refused, match="cannot be opened"), held([*images, images[0] + "-gone"]):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_child_that_inherits_the_descriptors_holds_the_images_until_it_ends(images: list[str]) -> None:
    with held(images) as mine:
        copies = [os.dup(fd) for fd in mine.fds.values()]  # as a child of a killed parent has them
    with pytest.raises(Refused, match="in use"), held(images):
        pass
    for fd in copies:
        os.close(fd)
    with held(images):
        pass
