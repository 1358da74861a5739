"""Guest RAM of real QEMU: no page that was written is missed, whatever the guest does."""

from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import VMFactory
from tests.framework.vm import PlainQEMU, TestVM
from tests.functional.memory.rig import differing, punch_hole, regions, start, whole

from snaptree.memory import tracker, userfault
from snaptree.memory.ram import GuestRAM
from snaptree.memory.tracker import Tracker, Wanted

HANDFUL = 10


def miss_nothing(vm: TestVM, plain: PlainQEMU, ram: GuestRAM, tracked: Tracker, rounds: int) -> None:
    """Stop the VM, again and again, and compare what was noted with all of its RAM."""
    plain.qmp.execute("stop")
    tracked.arm()
    before = whole(ram)
    for _ in range(rounds):
        plain.qmp.execute("cont")
        states = len(vm.states())
        vm.wait_states(states + 1)
        peeked = tracked.peek(HANDFUL)
        plain.qmp.execute("stop")
        taken = tracked.take()
        now = whole(ram)
        changed = differing(before, now)
        assert len(changed) > 0
        assert np.setdiff1d(changed, taken).size == 0
        assert (np.diff(taken) > 0).all()
        assert 0 < len(peeked) <= HANDFUL
        assert np.setdiff1d(peeked, taken).size == 0
        before = now
    assert tracked.take().size == 0 or not tracked.exact
    plain.qmp.execute("cont")


@pytest.mark.parametrize("wanted", ["userfaultfd", "compare"])
def test_no_page_that_was_written_is_missed(vm_factory: VMFactory, wanted: Wanted) -> None:
    vm = vm_factory(pace_ms=0)
    plain = start(vm)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        tracked = tracker.choose(plain.pid, ram, wanted)
        assert tracked.name == wanted
        miss_nothing(vm, plain, ram, tracked, rounds=30)
        tracked.close()
    vm.assert_guest_ok()


def test_no_page_is_missed_where_disks_are_read_past_the_page_cache_without_end(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=0)
    plain = start(vm, cache="none", append="snaptree.readloop=1")
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        tracked = tracker.choose(plain.pid, ram, "userfaultfd")
        miss_nothing(vm, plain, ram, tracked, rounds=12)
        tracked.close()
    vm.assert_guest_ok()


def test_pages_that_lost_their_memory_are_among_those_taken(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = start(vm)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        tracked = tracker.choose(plain.pid, ram, "userfaultfd")
        plain.qmp.execute("stop")
        tracked.arm(holes=True)
        first = int(ram.populated()[-1, 0])
        punch_hole(ram.regions[0].path, first, 1)  # as a balloon or free page reporting does
        assert tracked.peek(ram.pages).size == 0  # the kernel does not note it
        assert tracked.take(holes=True).tolist() == [first]
        assert tracked.take(holes=True).size == 0
        tracked.close()


def test_a_later_supervisor_needs_no_second_userfaultfd(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=0)
    plain = start(vm)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        tracker.choose(plain.pid, ram, "userfaultfd").close()
        first = userfault.find(plain.pid)
        assert first is not None
        later = tracker.choose(plain.pid, ram, "userfaultfd")
        assert userfault.find(plain.pid) == first
        miss_nothing(vm, plain, ram, later, rounds=3)
        later.close()


def test_qemu_gone_is_an_error_and_not_an_empty_list(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = start(vm)
    vm.wait_states(1)
    with GuestRAM(plain.pid, regions(plain)) as ram:
        tracked = tracker.choose(plain.pid, ram, "userfaultfd")
        plain.kill()
        with pytest.raises(ProcessLookupError):
            tracked.take()
        tracked.close()
