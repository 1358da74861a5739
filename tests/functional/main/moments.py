"""Of which moment the guest is: its counter when a snapshot was taken, and after a load.  Not for: whether it is whole.

The guest prints its counter once a round.  Of a VM that runs one knows only between which two lines a snapshot was
taken; and the line that a load cuts in two is lost.
"""

from __future__ import annotations

from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.traps.safety import run_state

Moment = range
"""The counters of which one is on the first whole line after the snapshot was loaded."""


def last_counter(vm: TestVM) -> int:
    """Return the counter of the last whole line."""
    return vm.states()[-1].ram


def go_on(vm: TestVM, rounds: int = 4) -> None:
    """Let the guest count on, so that this moment is none of those before."""
    since = vm.serial_end()  # before it there may be greater counters, of another branch
    vm.wait_state_after(last_counter(vm) + rounds, since)


def create(vm: TestVM, name: str, *options: str) -> Moment:
    """``snaptree create``."""
    before = last_counter(vm)
    vm.cli("create", vm.name, name, *options)
    return range(before + 1, last_counter(vm) + 3)


def load(vm: TestVM, name: str, moment: Moment) -> None:
    """``snaptree load --discard`` of a VM that stands still for it; assert that the guest goes on from that moment.

    The VM runs afterwards exactly if it ran before; the guest's next line is waited for in any case.
    """
    with vm.qmp() as client:
        before = run_state(client)
        client.execute("stop")
        since = vm.serial_end()
        vm.cli("load", vm.name, name, "--discard")
        assert run_state(client) == "paused"
        client.execute("cont")
        assert_at(vm, moment, since)
        if before != "running":
            client.execute("stop")


def load_running(vm: TestVM, name: str, moment: Moment) -> None:
    """``snaptree load --discard``, of a VM that runs on, back to a moment that it has passed long ago."""
    since = vm.serial_end()
    if last_counter(vm) <= moment.stop:
        vm.wait_state_after(moment.stop, since)
        since = vm.serial_end()
    vm.cli("load", vm.name, name, "--discard")
    wait_for_moment(vm, moment, since)


def wait_for_moment(vm: TestVM, moment: Moment, since: int) -> None:
    """Wait until the guest, which was far beyond this moment at ``since``, is at it."""
    vm.wait_serial(rf"^STATE OK ram=({'|'.join(str(counter) for counter in moment)}) ", since=since)


def assert_at(vm: TestVM, moment: Moment, since: int) -> None:
    """Assert that the guest's first line after ``since`` is of this moment, in RAM and on every disk."""
    first = vm.wait_states(1, since)[0]
    assert first.ok, first
    assert first.ram in moment, (first, moment)
    assert first.disks == (first.ram,) * len(vm.disks)


def written(client: QMPClient) -> dict[str, int]:
    """Return how often each device was written, by its name or its path."""
    return {
        device.get("device") or device["qdev"]: device["stats"]["wr_operations"]
        for device in client.execute("query-blockstats")
    }
