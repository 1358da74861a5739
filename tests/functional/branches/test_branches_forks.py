"""Forks of a guest that checks itself: each goes on from the snapshot, and none sees what another one writes."""

from __future__ import annotations

import json
import os
import re

import pytest
from tests.conftest import VMFactory
from tests.framework.branches import Branch, checksums, forkable, remains
from tests.framework.qmp import QMPClient
from tests.framework.ram import differing
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

NETWORK = ("-netdev", "user,id=n,hostfwd=tcp::{port:ssh}-:22", "-device", "virtio-net-pci,netdev=n,mac={mac:n}")


def test_forks_and_their_source_go_on_beside_each_other_and_share_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    source = Branch.run(vm, *NETWORK, "-device", "vmgenid,guid=auto")
    state = source.create("base")
    vm.cli("fork", "dev", "base", "--as", "f", "--count", "2")
    forks = [Branch(vm, "f-1"), Branch(vm, "f-2")]
    for fork in forks:
        fork.assert_goes_on_from(state)
    values = [branch.told()["placeholders"] for branch in (source, *forks)]
    for name in ("port:ssh", "mac:n", "dir"):
        assert len({value[name] for value in values}) == 3, name
    generations = {branch.monitor().execute("query-vm-generation-id")["guid"] for branch in (source, *forks)}
    assert len(generations) == 3

    # The source does all that it could, and what forks stand on stays.
    vm.cli("create", "dev", "other")
    vm.cli("load", "dev", "base")
    vm.cli("load", "dev", "other")
    vm.cli("delete", "dev", "other")
    refused = vm.cli("delete", "dev", "base", check=False)
    assert refused.returncode == 4
    assert "f-1, f-2" in refused.stderr
    for branch in (source, *forks):
        branch.assert_ok()

    # And so do its forks: each has a tree of its own.
    for fork in forks:
        vm.cli("create", fork.name, "own")
    forks[0].assert_ok()
    vm.cli("load", "f-1", "own")
    for branch in (source, *forks):
        branch.assert_ok()
    vm.cli("stop", "--delete", "f-1")
    vm.cli("stop", "--delete", "f-2")
    assert not forks[0].home.exists()
    vm.cli("delete", "dev", "base")
    source.assert_ok()


def test_the_trees_of_both_say_which_is_a_fork_of_which(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    Branch.run(vm).create("base")
    (fork,) = Branch(vm, "dev").fork("base", "trial")
    id = vm.cli_json("show", "dev", "base")["id"]
    assert vm.cli("tree", "trial").stdout.startswith("fork of dev at base\n")
    assert "  fork: trial" in vm.cli("tree", "dev").stdout
    assert vm.cli_json("show", "dev", "base")["forks"] == ["trial"]
    assert vm.cli_json("show", "dev")["forks"] == ["trial"]
    assert vm.cli_json("show", "dev")["origin"] is None
    assert fork.told()["origin"] == {"vm": "dev", "id": id, "name": "base"}
    assert re.search(r"^  fork of +dev at base$", vm.cli("show", "trial").stdout, re.MULTILINE)
    assert "dev at base" in vm.cli("vms").stdout
    vm.cli("rename", "dev", "base", "first")
    assert vm.cli_json("show", "dev", "first")["forks"] == ["trial"]


@pytest.mark.parametrize("options", [(), ("--memory", "full")], ids=["pages", "full"])
def test_the_source_may_be_stopped_and_none_of_its_files_changes(
    vm_factory: VMFactory, options: tuple[str, ...]
) -> None:
    vm = vm_factory(pace_ms=10)
    source = Branch.run(vm, options=options)
    state = source.create("base")
    vm.cli("stop", "dev")
    files = [*vm.disks, *([source.home / "pages"] if not options else [])]
    before = checksums(*files)
    forks = source.fork("base", "one", "two")
    for fork in forks:
        fork.assert_goes_on_from(state)
        vm.cli("create", fork.name, "own")
        fork.assert_ok()
        vm.cli("load", fork.name, "own", "--discard")
        fork.assert_ok()
    assert checksums(*files) == before
    vm.cli("stop", "one")
    vm.cli("stop", "--delete", "two")
    assert checksums(*files) == before
    # The source goes on as if there were no forks, and a fork that was stopped likewise.
    vm.cli("run", "--detach", "dev", *options, "--", *forkable(vm))
    vm.cli("load", "dev", "base", "--discard")
    source.assert_ok()
    assert vm.cli_json("list", "one")[0]["consistent"]


def test_a_snapshot_of_the_disks_alone_is_forked_into_a_vm_that_boots(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    Branch.run(vm)
    vm.cli("stop", "dev")
    vm.cli("create", "dev", "off")
    before = checksums(*vm.disks)
    (fork,) = Branch(vm, "dev").fork("off", "cold")
    fork.wait_states(3)
    fork.assert_ok()
    assert checksums(*vm.disks) == before


def test_forks_of_forks_of_forks_are_exact_and_load_exactly(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    vm.cli("run", "--detach", "dev", "--", *forkable(vm, "-S"))
    above = Branch(vm, "dev")
    above.monitor().execute("cont")
    for name in ("child", "grandchild", "great-grandchild"):
        monitor = above.monitor()
        above.assert_ok()
        monitor.execute("stop")
        taken = above.digests()
        monitor.execute("snapshot-create", {"name": f"for-{name}"})
        assert differing(taken, above.digests()) == []
        (fork,) = above.fork(f"for-{name}", name)
        # The command line has -S: a fork stands still at first.
        assert differing(taken, fork.digests()) == []
        monitor.execute("cont")
        fork_monitor = fork.monitor()
        fork_monitor.execute("cont")
        fork.assert_ok()
        fork_monitor.execute("snapshot-create", {"name": "own"})
        fork.assert_ok()
        fork_monitor.execute("stop")
        fork_monitor.execute("snapshot-load", {"name": "own"})
        loaded = fork.digests()
        fork_monitor.execute("snapshot-load", {"name": "own"})
        assert differing(loaded, fork.digests()) == []
        assert differing(taken, loaded) != []
        fork_monitor.execute("cont")
        above.assert_ok()
        above = fork


@pytest.mark.parametrize("which", ["qemu", "supervisor"])
def test_a_killed_source_harms_no_fork(vm_factory: VMFactory, which: str) -> None:
    vm = vm_factory(pace_ms=10)
    source = Branch.run(vm)
    state = source.create("base")
    (fork,) = source.fork("base", "trial")
    source.kill(which)
    fork.assert_goes_on_from(state)
    if which == "supervisor":
        vm.cli("attach", "--detach", "dev")
    else:
        vm.cli("run", "--detach", "dev", "--", *forkable(vm))
    (late,) = source.fork("base", "late")
    late.assert_goes_on_from(state)
    vm.cli("load", "dev", "base")
    for branch in (source, fork, late):
        branch.assert_ok()


def test_a_forks_supervisor_may_be_killed(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    (fork,) = _with_base(vm).fork("base", "trial")
    vm.cli("create", "trial", "before")
    fork.kill("supervisor")
    vm.cli("attach", "--detach", "trial")
    fork.assert_ok()
    monitor = fork.monitor()
    monitor.execute("stop")
    taken = fork.digests()
    monitor.execute("snapshot-create", {"name": "after"})
    monitor.execute("snapshot-load", {"name": "before"})
    assert differing(taken, fork.digests()) != []
    monitor.execute("snapshot-load", {"name": "after"})
    assert differing(taken, fork.digests()) == []
    monitor.execute("cont")
    fork.assert_ok()
    assert all(s["memory"] == "pages" for s in monitor.execute("query-snapshots"))


def _with_base(vm: TestVM) -> Branch:
    source = Branch.run(vm)
    source.create("base")
    return source


def test_a_balloon_in_a_fork_changes_that_fork_alone(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=10)
    source = Branch.run(vm, "-device", "virtio-balloon-pci,id=balloon0", memory_mib=128, append="snaptree.pages=256")
    state = source.create("base")
    vm.cli("stop", "dev")
    files = (*vm.disks, source.home / "pages")
    before = checksums(*files)
    forks = source.fork("base", "one", "two")
    monitor = forks[0].monitor()
    full = monitor.execute("query-balloon")["actual"]
    for target in (full - (48 << 20), full, full - (32 << 20)):
        monitor.execute("balloon", {"value": target})
        _wait_for_balloon(monitor, target)
        forks[0].assert_ok()
    monitor.execute("snapshot-create", {"name": "inflated"})
    monitor.execute("balloon", {"value": full})
    _wait_for_balloon(monitor, full)
    monitor.execute("snapshot-load", {"name": "inflated"})
    for fork in forks:
        fork.assert_goes_on_from(state)
    assert checksums(*files) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-serial", "file:/tmp/never-written.log"), "{dir}"),
        (("-netdev", "user,id=n,hostfwd=tcp::2222-:22"), "{port:"),
        (("-monitor", "unix:/tmp/never-served.sock,server=on,wait=off"), "{dir}"),
    ],
)
def test_what_two_vms_cannot_have_is_refused_with_the_place_for_a_placeholder(
    vm_factory: VMFactory, words: tuple[str, ...], named: str
) -> None:
    vm = vm_factory(disks=1)
    words = tuple(word.replace("/tmp/", f"{vm.root}/") for word in words)
    vm.cli("run", "--detach", "dev", "--", *forkable(vm, *words))
    vm.cli("create", "dev", "base")
    before = remains(vm)
    refused = vm.cli("fork", "dev", "base", "--as", "trial", check=False)
    assert refused.returncode == 4
    assert words[-1] in refused.stderr
    assert named in refused.stderr
    assert remains(vm) == before
    vm.cli("delete", "dev", "base")


def test_twenty_forks_leave_nothing_behind(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    source = _with_base(vm)
    (once,) = source.fork("base", "once")
    vm.cli("stop", "--delete", once.name)
    before = remains(vm)
    for _ in range(5):
        vm.cli("fork", "dev", "base", "--as", "f", "--count", "4")
        for number in range(1, 5):
            vm.cli("stop", "--delete", f"f-{number}")
    wait_until(lambda: remains(vm) == before, "the same as before")
    source.assert_ok()
    assert os.listdir(source.home / "forks") == []


def _wait_for_balloon(monitor: QMPClient, actual: int) -> None:
    wait_until(lambda: monitor.execute("query-balloon")["actual"] == actual, f"a VM of {actual} bytes")


def test_what_qemu_writes_into_a_forks_ram_at_a_load_is_put_back_where_we_have_written_too(
    vm_factory: VMFactory,
) -> None:
    address, data = 32 << 20, 0x0123456789ABCDEF
    vm = vm_factory(pace_ms=10)
    # At every reset, and a load is one, the device writes it there again.
    source = Branch.run(vm, "-device", f"loader,addr={address:#x},data={data:#x},data-len=8")
    source.create("base")
    (fork,) = source.fork("base", "trial")
    monitor = fork.monitor()
    monitor.execute("stop")
    running = json.loads((fork.home / "running.json").read_text())

    def fill(content: bytes) -> None:
        """Write as the guest would: into QEMU's address space."""
        with open(f"/proc/{running['qemu_pid']}/mem", "r+b", buffering=0) as memory:
            memory.seek(running["ram"]["pc.ram"] + address)
            memory.write(content)

    for name, content in (("zeros", bytes(8)), ("ones", b"\x11" * 8)):
        fill(content)
        monitor.execute("snapshot-create", {"name": name})
        if name == "zeros":
            taken = fork.digests()
    for _ in range(3):
        fill(b"\x22" * 8)
        monitor.execute("snapshot-load", {"name": "zeros", "keep": False})
        assert differing(taken, fork.digests()) == []
    monitor.execute("cont")
    fork.assert_ok()
