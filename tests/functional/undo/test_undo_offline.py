"""The present of a VM that doesn't run is kept before its disks go elsewhere."""

from __future__ import annotations

import pytest
from tests.conftest import VMFactory
from tests.functional.main.patterns import contents, write
from tests.functional.main.untouched import fails
from tests.functional.offline.stopped import current, names, set_disks, stopped_vm, taken
from tests.functional.undo.moves import automatic, parents, place_of, run_bare

from snaptree.engine.offline_verbs import keep_present
from snaptree.places.lock import SupervisorLock


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


def test_a_load_of_a_stopped_vm_keeps_the_disks_and_undo_goes_back_and_forth(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 2)
    done = vm.cli_json("load", vm.name, "a")
    assert (done["name"], contents(vm)) == ("a", [1, 1])
    kept = done["kept"]
    assert parents(vm) == {"a": "", kept: "a"}
    set_disks(vm, 3)
    undone = vm.cli_json("undo", vm.name)
    assert (undone["name"], contents(vm)) == (kept, [2, 2])
    assert vm.cli_json("undo", vm.name)["name"] == undone["kept"]
    assert contents(vm) == [3, 3]
    assert vm.cli_json("undo", vm.name)["kept"] is None
    assert contents(vm) == [2, 2]
    set_disks(vm, 4)
    assert vm.cli_json("load", "--discard", vm.name, "a")["kept"] is None
    assert "discarded" in fails(vm, "undo", vm.name, code=4)
    assert vm.cli_json("check", vm.name)["ok"]


def test_what_qemu_has_left_on_the_disks_is_kept_by_the_next_load(vm_factory: VMFactory) -> None:
    vm = run_bare(vm_factory())
    with vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "a"})
        write(client, 2)
        contents(vm, client)
    vm.cli("stop", "--discard", vm.name)
    kept = vm.cli_json("load", vm.name, "a")["kept"]
    (found,) = [snapshot for snapshot in vm.cli_json("list", vm.name) if snapshot["automatic"]]
    assert (found["name"], found["memory"], found["parent_name"]) == (kept, "none", "a")
    vm.cli("undo", vm.name)
    assert contents(vm) == [2, 2]


def test_the_last_five_of_a_stopped_vm_stay(vm_factory: VMFactory) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    kept = []
    for pattern in range(2, 9):
        set_disks(vm, pattern)
        kept.append(vm.cli_json("load", vm.name, "a")["kept"])
    assert automatic(vm) == kept[-5:]
    assert vm.cli_json("check", vm.name)["ok"]


@pytest.mark.parametrize(
    ("point", "at"),
    [("offline-create.one", 9), ("offline-create.done", 9), ("offline-load.begun", 9), ("offline-load.one", 1)],
)
def test_a_death_between_keeping_and_loading_leaves_both_whole(vm_factory: VMFactory, point: str, at: int) -> None:
    vm = stopped_vm(vm_factory())
    taken(vm, "a", 1)
    set_disks(vm, 9)
    vm.env["SNAPTREE_TRACE"] = f"{point}=kill"
    vm.cli("load", vm.name, "a", check=False)
    del vm.env["SNAPTREE_TRACE"]
    vm.cli("describe", vm.name, "a", "the next command")
    vm.cli("create", vm.name, "afterwards")
    assert contents(vm) == [at, at]
    left = automatic(vm)
    assert len(left) == (point != "offline-create.one")
    vm.cli("load", vm.name, left[0] if left else "afterwards")
    assert contents(vm) == [9, 9]
    assert vm.cli_json("check", vm.name)["ok"]
