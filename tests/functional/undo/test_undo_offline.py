"""The present of a VM that doesn't run is kept before its disks go elsewhere."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents
from tests.functional.offline.stopped import current, names, set_disks, stopped_vm, taken

from snaptree.engine.offline_keep import keep_present
from snaptree.places.lock import SupervisorLock
from snaptree.places.places import VMPlace


def place_of(vm: TestVM) -> VMPlace:
    """Return the VM's place."""
    return VMPlace(vm.name, vm.home / "vms" / vm.name, vm.runtime / "snaptree" / vm.name)


def test_disks_are_kept_where_they_are_not_at_the_current_snapshot_and_only_there(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    a = taken(vm, "a", 1)
    assert keep_present(place_of(vm), "because") is None
    set_disks(vm, 2)
    kept = keep_present(place_of(vm), "because")
    assert kept is not None
    assert (kept.memory, kept.automatic, kept.description, kept.parent_id) == ("none", True, "because", a["id"])
    assert current(vm) == kept.name
    assert keep_present(place_of(vm), "because") is None
    set_disks(vm, 3)
    lock = SupervisorLock.take(place_of(vm).lock)
    assert lock is not None
    try:
        second = keep_present(place_of(vm), "because", lock=lock)
    finally:
        lock.release()
    assert second is not None
    assert names(vm) == ["a", kept.name, second.name]
    assert contents(vm) == [3, 3]
