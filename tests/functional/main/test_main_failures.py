"""Bad luck: a load that fails half way never runs on mixed disks, a create that fails leaves nothing.

The load fails because somebody has scribbled over disk b's part of the snapshot while QEMU runs: nobody can know that
before, and disk a is reverted first.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.moments import create, go_on, load, load_running
from tests.functional.main.patterns import contents, write
from tests.functional.main.untouched import fails, fails_json
from tests.functional.traps.safety import MIB, bare, entries, refusal, run_state, under_care

from snaptree.engine.moments import CLOCK_SLACK_S
from snaptree.qcow2.image import Image

NOWHERE = struct.pack(">Q", 0x8000000000050200)
"""An entry of an L1 table that no qcow2 can have: the offset is not that of a cluster."""


def scribble(vm: TestVM, name: str, entry: bytes = NOWHERE) -> bytes:
    """Overwrite the first L1 entry of a snapshot in the image of disk b; return what was there."""
    with Image.open(vm.disks[1]) as image:
        (offset,) = [found.l1_offset for found in image.snapshots() if found.tag.startswith(f"{name}@")]
    with vm.disks[1].open("r+b") as file:
        file.seek(offset)
        before = file.read(len(entry))
        file.seek(offset)
        file.write(entry)
    return before


def take_two(vm: TestVM, client: QMPClient) -> None:
    """Take the snapshots s and t, with 1 and 2 on the disks, and go on to 3."""
    for pattern, name in enumerate(["s", "t"], 1):
        write(client, pattern)
        client.execute("snapshot-create", {"name": name})
    write(client, 3)
    contents(vm, client)  # writes back what QEMU holds


def assert_stuck(vm: TestVM, client: QMPClient) -> None:
    """Assert that the VM stands still, that nothing makes it continue, and that ``status`` says what is where."""
    assert run_state(client) in ("paused", "prelaunch")
    reasons = vm.cli_json("status", vm.name)["reasons"]
    assert reasons[0]["code"] == "load-incomplete"
    assert "virtio0 is at s" in reasons[0]["message"]
    assert "virtio1 was found corrupt and closed by QEMU" in reasons[0]["message"]
    assert "snaptree load dev NAME" in reasons[0]["remedy"]
    assert refusal(client, "cont", {})["code"] == "refused"
    for line in ("cont", "c", " cont "):
        assert client.hmp(line).startswith("Error: The VM cannot continue")
    said = refusal(client, "snapshot-create", {"name": "u"})
    assert (said["code"], said["reasons"][0]["code"]) == ("not-ready", "load-incomplete")
    assert run_state(client) in ("paused", "prelaunch")


def test_a_load_that_fails_half_way_leaves_the_vm_paused_and_says_which_disk_is_in_which_state(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        take_two(vm, client)
        scribble(vm, "s")
        said = fails(vm, "load", "--discard", vm.name, "s", code=1)
        assert "The load of s failed half way" in said
        assert "virtio0 is at s, virtio1 was found corrupt and closed by QEMU" in said
        assert_stuck(vm, client)
        assert fails_json(vm, "create", vm.name, "u", code=4)["code"] == "not-ready"
        assert fails_json(vm, "load", "--discard", vm.name, "t", code=4)["reasons"][0]["code"] == "corrupt"
        assert client.execute("query-jobs") == []
        (failed,) = [event for event in client.events if event["event"] == "SNAPSHOT_FAILED"]
        assert (failed["data"]["operation"], failed["data"]["name"]) == ("load", "s")
        last = client.execute("query-snapshot-history")[-1]
        assert (last["action"], last["name"], last["result"].partition(":")[0]) == ("load", "s", "incomplete")


def test_a_failed_load_with_json_has_its_own_code(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        take_two(vm, client)
        client.execute("stop")
        scribble(vm, "s")
        assert fails_json(vm, "load", "--discard", vm.name, "s", code=1)["code"] == "load-incomplete"
        assert_stuck(vm, client)


def test_a_half_loaded_vm_stays_so_for_the_next_supervisor(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        take_two(vm, client)
        scribble(vm, "s")
        fails(vm, "load", "--discard", vm.name, "s", code=1)
        supervisor = client.execute("query-vm")["supervisor_pid"]
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(AssertionError, match="closed the connection"):
            client.wait_event("never")
        vm.cli("attach", "--detach", vm.name)
        with vm.qmp() as next_client:
            assert_stuck(vm, next_client)


def test_a_half_loaded_vm_is_whole_again_once_its_image_is_mended_and_a_snapshot_loaded(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        take_two(vm, client)
        before = scribble(vm, "s")
        fails(vm, "load", "--discard", vm.name, "s", code=1)
    assert vm.cli_json("status", vm.name)["reasons"][0]["code"] == "load-incomplete"
    assert "Image is corrupt" in fails(vm, "run", "--detach", vm.name, "--", *bare(vm), code=1)
    scribble(vm, "s", before)
    vm.tool("qemu-img", "check", "-q", "-r", "all", str(vm.disks[1]))
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert vm.cli_json("status", vm.name)["reasons"][0]["code"] == "load-incomplete"
        assert refusal(client, "cont", {})["code"] == "refused"
        assert contents(vm, client) == [1, 3]
        vm.cli("load", "--discard", vm.name, "t")
        assert contents(vm, client) == [2, 2]
        client.execute("cont")
        assert vm.cli_json("status", vm.name)["reasons"] == []
        client.execute("snapshot-load", {"name": "s", "keep": False})
        assert contents(vm, client) == [1, 1]
        assert run_state(client) == "running"


@contextmanager
def no_room_behind(pid: int, offset: int) -> Iterator[None]:
    """Let every write of a process behind this offset of a file fail, as on a full file system."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (offset, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.long
def test_a_create_for_which_there_is_no_room_leaves_nothing_and_the_guest_runs_on(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=20)
    script = vm.root / "qemu.sh"
    # Such a write is an error then, and no signal.
    script.write_text('#!/bin/sh\ntrap "" XFSZ\nexec qemu-system-x86_64 "$@"\n')
    script.chmod(0o755)
    vm.cli("run", "--detach", "--memory", "full", vm.name, "--", str(script), *vm.qemu_args()[1:])
    vm.wait_states(3)
    one = create(vm, "one")
    go_on(vm)
    with vm.qmp() as client:
        before = entries(client)
        with no_room_behind(client.execute("query-vm")["qemu_pid"], vm.disks[0].stat().st_size + 2 * MIB):
            assert "QEMU's snapshot-save failed" in fails(vm, "create", vm.name, "late", code=1)
            assert run_state(client) == "running"
            go_on(vm)
        assert entries(client) == before
        assert client.execute("query-jobs") == []
        assert [snapshot["name"] for snapshot in client.execute("query-snapshots")] == ["one"]
        assert client.execute("query-current-snapshot")["name"] == "one"
        with pytest.raises(QMPError, match="There is no snapshot"):
            client.execute("snapshot-load", {"name": "late", "keep": False})
    late = create(vm, "late")
    go_on(vm)
    load_running(vm, "one", one)
    load(vm, "late", late)
    vm.assert_guest_ok()


def test_a_load_that_cannot_be_written_into_the_lineage_says_so_and_a_later_operation_does_it(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory()
    lineage = vm.home / "vms" / vm.name / "lineage"
    with under_care(vm, bare(vm)), vm.qmp() as client:
        take_two(vm, client)
        kept = lineage.rename(lineage.with_name("kept"))
        lineage.mkdir()
        said = refusal(client, "snapshot-load", {"name": "s", "keep": False})
        assert "s was loaded, but that cannot be written down yet" in said["desc"]
        assert run_state(client) == "running"
        assert contents(vm, client) == [1, 1]
        for _ in range(2):  # each tries again
            said = refusal(client, "snapshot-rename", {"name": "t", "new-name": "other"})
            assert "lineage" in said["desc"]
        # Longer than what its clock may differ by: it is not to be taken for one that somebody else has loaded.
        since = time.monotonic() + 1.2 * CLOCK_SLACK_S
        wait_until(lambda: time.monotonic() > since, "the VM to have run for a while")
        lineage.rmdir()
        kept.rename(lineage)
        client.execute("snapshot-create", {"name": "u"})
        tree = {snapshot["name"]: snapshot for snapshot in client.execute("query-snapshots")}
        assert tree["u"]["parent_id"] == tree["s"]["id"]
        assert client.execute("query-jobs") == []
        loads = [entry for entry in client.execute("query-snapshot-history") if entry["action"] == "load"]
        assert [entry["name"] for entry in loads] == ["s"]
    loads = [line for line in lineage.read_text().splitlines() if '"do": "load"' in line]
    assert [tree["s"]["id"] in line for line in loads] == [True]
