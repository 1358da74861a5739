"""What is durable before what, in the supervisor's own system calls: a power cut at any moment finds a whole story.

Every prefix of the recorded calls is what a power cut may leave in the worst case: only what was synced is there.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.faults import state_of
from tests.framework.qmp import QMPClient
from tests.framework.syscalls import Call, parse, recorded
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.patterns import contents, write
from tests.functional.main.test_main_supervisor_death import assert_whole, kill, run

from snaptree.catalog.lineage import replay

Rule = Callable[[Call], bool]


def synced(ending: str) -> Rule:
    return lambda call: call.name == "fsync" and call.path.endswith(ending)


def written(ending: str) -> Rule:
    return lambda call: call.name == "write" and call.path.endswith(ending)


def renamed(ending: str) -> Rule:
    return lambda call: call.name == "rename" and call.path.endswith(ending)


def asked(command: str) -> Rule:
    return lambda call: call.name == "send" and f'\\"execute\\":\\"{command}\\"' in call.data


def told(event: str) -> Rule:
    return lambda call: call.name == "send" and f'\\"event\\": \\"{event}\\"' in call.data


COMMITTED = synced("catalog.sqlite-wal")
MARKED = synced("/step")
EXECUTED: Rule = lambda call: call.name == "send" and '\\"devices\\":[' in call.data  # noqa: E731
"""QEMU has all of a save or a load now; it reads the beginning ahead."""
ANSWERED: Rule = lambda call: call.name == "send" and '\\"return\\": {}, \\"id\\"' in call.data  # noqa: E731


def where(calls: list[Call], rule: Rule) -> list[int]:
    found = [number for number, call in enumerate(calls) if rule(call)]
    assert found, "it was not done at all"
    return found


def assert_order(calls: list[Call], *rules: Rule) -> None:
    """Assert that each was done before the next, the first time each after the one before."""
    at = -1
    for number, rule in enumerate(rules):
        later = [found for found in where(calls, rule) if found > at]
        assert later, f"rule {number} does not hold after call {at}: {calls[at]}"
        at = later[0]


def assert_clean(calls: Iterable[Call], at: int, ending: str) -> None:
    """Assert that all that was written to files of this ending before a call was synced before it."""
    dirty: set[str] = set()
    for call in list(calls)[:at]:
        if call.path.endswith(ending):
            if call.name == "write":
                dirty.add(call.path)
            if call.name == "fsync":
                dirty.discard(call.path)
    assert dirty == set()


def assert_read_ahead(calls: list[Call], at: int) -> None:
    """Assert that QEMU needed nothing but the end of a save or a load any more."""
    assert not asked("snapshot-save")(calls[at])
    assert not asked("snapshot-load")(calls[at])
    assert not [call for call in calls if "not-now" in call.data]


def record(vm: TestVM, client: QMPClient, command: str, **arguments: object) -> list[Call]:
    with recorded(client.execute("query-vm")["supervisor_pid"], vm.root / "calls.strace") as calls:
        client.execute(command, arguments)
        # So that the answer before it is in the record, and what is written into the catalog after that.
        client.execute("query-snapshot-history", {"limit": 1})
    return calls


@pytest.fixture
def vm(vm_factory: VMFactory) -> TestVM:
    if shutil.which("strace") is None:
        pytest.fail("There is no strace. Run: make setup", pytrace=False)
    return vm_factory()


def test_all_of_a_snapshot_is_durable_before_the_catalog_knows_it_and_that_before_anybody_is_told(vm: TestVM) -> None:
    vm.run(memory_mib=32)
    vm.wait_states(1)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "first"})
        vm.wait_states(1, vm.serial_end())
        calls = record(vm, client, "snapshot-create", name="new")
    journal, known = where(calls, COMMITTED)[0], where(calls, COMMITTED)[-1]
    (save,) = where(calls, EXECUTED)
    assert_read_ahead(calls, save)
    assert journal < save, "QEMU was asked before the journal was durable"
    for disk in vm.disks:
        assert [at for at in where(calls, synced(disk.name)) if save < at < known], f"{disk.name} is not synced"
    # The pages: content, then name, then the index's content, then its name, then the directory; then the catalog.
    assert_order(calls, synced(".pages.tmp"), renamed(".pages"), synced("/pages"), renamed(".index"), synced("/pages"))
    assert_order(calls, synced(".index.tmp"), renamed(".index"), synced("/pages"), COMMITTED)
    assert max(where(calls, renamed(".index"))) < max(where(calls, synced("/pages"))) < known
    assert save < where(calls, synced("/lineage"))[0] < known
    for ending in (".tmp", ".pages", ".index", "lineage"):
        assert_clean(calls, known, ending)
    assert known < where(calls, told("SNAPSHOT_CREATED"))[0]
    assert known < where(calls, ANSWERED)[-1]
    assert_clean(calls, where(calls, ANSWERED)[-1], ".sqlite-wal")


@pytest.mark.parametrize("way", ["pages", "full"])
def test_a_load_is_in_the_journal_before_anything_changes_and_noted_before_the_vm_runs_on(vm: TestVM, way: str) -> None:
    vm.know_qemu()
    vm.cli("run", "--detach", "--memory", way, vm.name, "--", *vm.qemu_args(memory_mib=32))
    vm.wait_states(1)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "old"})
        vm.wait_states(1, vm.serial_end())
        calls = record(vm, client, "snapshot-load", name="old", keep=False)
    commits, marks = where(calls, COMMITTED), where(calls, MARKED)
    (load,), (cont,) = where(calls, EXECUTED), where(calls, asked("cont"))
    assert_read_ahead(calls, load)
    assert commits[0] < load, "QEMU was asked before the journal was durable"
    assert [at for at in marks if load < at < cont], "the VM runs on, and the journal does not say that it has loaded"
    assert_order(calls, EXECUTED, written("/lineage"), told("SNAPSHOT_LOADED"))
    assert_order(calls, asked("cont"), synced("/lineage"), written("catalog.sqlite-wal"))
    assert_clean(calls, next(at for at in where(calls, written("catalog.sqlite-wal")) if at > cont), "lineage")
    # The job of QEMU tells a later supervisor how it ended, until that is durable.
    assert where(calls, asked("job-dismiss"))[0] > max(commits[-1], marks[-1])
    # What is written into lineage and catalog after that mark may be lost: the journal brings it about again.


def files_of_the_catalog(folder: Path) -> list[Path]:
    return [*folder.glob("catalog.sqlite*"), folder / "step", folder / "lineage"]


def test_a_power_cut_after_a_load_was_answered_takes_nothing_back(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    folder = vm.home / "vms" / vm.name
    run(vm, "load.loaded", how="stop")
    with vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "a"})
        write(client, 2)
        client.execute("snapshot-create", {"name": "b"})
        known = client.execute("query-vm")
        number = client.send("snapshot-load", {"name": "a", "keep": False})
        wait_until(lambda: state_of(known["supervisor_pid"]) == "T", "the supervisor to stop in the pause")
        durable = {path.name: path.read_bytes() for path in files_of_the_catalog(folder)}
        os.kill(known["supervisor_pid"], signal.SIGCONT)
        client.reply("snapshot-load", number)
        assert client.execute("query-current-snapshot")["name"] == "a"
        write(client, 3)
        contents(vm, client)  # writes back what QEMU holds
    for pid in (known["supervisor_pid"], known["qemu_pid"]):
        kill(pid)
    for path in files_of_the_catalog(folder):
        path.unlink()
    for name, data in durable.items():
        (folder / name).write_bytes(data)
    assert "The load of a, which was cut off, has been finished" in run(vm)
    with vm.qmp() as client:
        assert replay((folder / "lineage").read_bytes()).current == client.execute("query-current-snapshot")["id"]
        assert_whole(vm, client, {"a": 1, "b": 2}, "a", 3)


def test_a_delete_is_in_the_journal_before_anything_goes_and_pages_go_after_the_name(vm: TestVM) -> None:
    vm.run(memory_mib=32)
    vm.wait_states(1)
    with vm.qmp() as client:
        client.execute("snapshot-create", {"name": "first"})
        vm.wait_states(1, vm.serial_end())
        client.execute("snapshot-create", {"name": "second"})
        calls = record(vm, client, "snapshot-delete", name="second")
    commits = where(calls, COMMITTED)
    (gone,) = where(calls, asked("snapshot-delete"))
    assert commits[0] < gone, "QEMU was asked before the journal was durable"
    assert_order(calls, asked("snapshot-delete"), renamed(".deleting"), synced("/pages"), synced(".pages"))
    assert_order(calls, renamed(".deleting"), synced("/pages"), renamed(".freed"), synced("/pages"), synced("/lineage"))
    assert_order(calls, renamed(".freed"), synced("/lineage"), COMMITTED, told("SNAPSHOT_DELETED"))
    assert_clean(calls, where(calls, told("SNAPSHOT_DELETED"))[0], "lineage")


def test_calls_that_other_threads_interrupt_are_put_together() -> None:
    text = (
        '12 pwrite64(7</home/catalog.sqlite-wal>, "x", 1, 0 <unfinished ...>\n'
        "13 fsync(9</home/lineage>) = 0\n"
        "12 <... pwrite64 resumed>) = 1\n"
        '13 rename("/a.tmp", "/a") = 0\n'
        '13 rename("/b.tmp", "/b") = -1 ENOENT (No such file)\n'
    )
    assert [(call.name, call.path) for call in parse(text)] == [
        ("fsync", "/home/lineage"),
        ("write", "/home/catalog.sqlite-wal"),
        ("rename", "/a"),
    ]
