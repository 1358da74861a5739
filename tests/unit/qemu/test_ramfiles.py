"""The files that guest RAM lies in."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from snaptree.model.errors import QEMUStartFailed
from snaptree.qemu.rambackend import RAMBlock
from snaptree.qemu.ramfiles import memfds

MIB = 1 << 20


def link(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def test_each_block_has_a_memfd_of_its_name_and_size_that_no_program_inherits_unasked() -> None:
    with memfds([RAMBlock("pc.ram", 2 * MIB), RAMBlock("b", MIB), RAMBlock("x" * 300, 4096)]) as made:
        assert list(made) == ["pc.ram", "b", "x" * 300]
        assert link(made["pc.ram"]) == "/memfd:snaptree:pc.ram (deleted)"
        assert [os.fstat(fd).st_size for fd in made.values()] == [2 * MIB, MIB, 4096]
        assert not any(os.get_inheritable(fd) for fd in made.values())
        assert os.fstat(made["pc.ram"]).st_blocks == 0
    for fd in made.values():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize("size", [0, 4096, 2 * MIB])
def test_a_memfd_neither_shrinks_nor_grows(size: int) -> None:
    with memfds([RAMBlock("a", MIB)]) as made, pytest.raises(PermissionError):
        os.ftruncate(made["a"], size)


@pytest.fixture
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_kernel_that_refuses_is_an_error_and_nothing_stays_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with (
        pytest.raises(QEMUStartFailed, match=os.strerror(errno.EFBIG)),
        memfds([RAMBlock("a", MIB), RAMBlock("b", 2 * MIB)]),
    ):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_kernel_without_memfds_that_cannot_be_executed_makes_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.memfd_create

    def old(name: str, flags: int) -> int:
        if flags & 0x8:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    with memfds([RAMBlock("a", MIB)]) as made:
        assert link(made["a"]) == "/memfd:snaptree:a (deleted)"
