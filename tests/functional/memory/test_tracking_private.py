"""RAM over which private mappings of a file were laid, as forks have it: seen and written through QEMU itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import VMFactory
from tests.functional.memory.rig import BLOCK, MEMORY_MIB, differing, regions, start, whole

from snaptree.memory import tracker
from snaptree.memory.kernel import PAGE_SIZE, SYS_MMAP
from snaptree.memory.ptrace import Traced
from snaptree.memory.ram import GuestRAM

PROT_READ_WRITE = 3
MAP_PRIVATE_FIXED = 0x12
SIZE = MEMORY_MIB << 20


@pytest.mark.parametrize("share", [1, 2], ids=["all of it", "half of it"])
def test_a_private_mapping_is_tracked_read_and_written(vm_factory: VMFactory, tmp_path: Path, share: int) -> None:
    vm = vm_factory(pace_ms=0)
    image = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT, 0o600)
    plain = start(vm, inherit=(image,))
    vm.wait_states(1)
    plain.qmp.execute("stop")
    (region,) = regions(plain)
    with GuestRAM(plain.pid, [region]) as ram:
        content = whole(ram)
    os.pwrite(image, content.tobytes(), 0)
    with Traced(plain.pid) as traced:
        mapped = traced.call(SYS_MMAP, region.address, SIZE // share, PROT_READ_WRITE, MAP_PRIVATE_FIXED, image, 0)
    os.close(image)
    assert mapped == region.address
    (private,) = regions(plain, {BLOCK: region.address})
    assert private.private
    assert (private.address, private.size) == (region.address, region.size)
    with GuestRAM(plain.pid, [private]) as ram:
        assert differing(content, whole(ram)).size == 0
        tracked = tracker.choose(plain.pid, ram, "userfaultfd")
        tracked.arm()
        before = content
        for _ in range(10):
            plain.qmp.execute("cont")
            vm.wait_states(len(vm.states()) + 1)
            plain.qmp.execute("stop")
            taken, now = tracked.take(), whole(ram)
            changed = differing(before, now)
            assert changed.size > 0
            assert np.setdiff1d(changed, taken).size == 0
            before = now
        back = differing(content, before)
        ram.scatter(back, content[back])
        assert differing(content, whole(ram)).size == 0
        assert tracked.take().tolist() == back.tolist()  # our own writes are among them
        assert (np.fromfile(tmp_path / "image", np.uint8).reshape(-1, PAGE_SIZE) == content).all()
        tracked.close()
