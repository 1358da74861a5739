"""What a create keeps is RAM as it was in the last stop, every byte: seen past snaptree, while that stands still.

``SNAPTREE_TRACE=create.saved=stop`` stops the supervisor in the pause, when it has taken RAM.
"""

from __future__ import annotations

import os
import signal
from array import array
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import VMFactory
from tests.framework import ram
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

from snaptree.memory.store import PageStore

ROUNDS = 8
BLOCK = "pc.ram"


def kept(vm: TestVM, id: str) -> dict[str, array[int]]:
    """Return a checksum of each page that the store has for a snapshot, as ``ram.digests`` does."""
    store = PageStore.open(vm.home / "vms" / vm.name / "pages", clean=False)
    try:
        map = store.map(id)
        found = {}
        start = 0
        for block in map.layout:
            pages = np.arange(start, start + block.size // ram.PAGE, dtype=np.int64)
            start += len(pages)
            digests = array("L")
            for part in np.array_split(pages, len(pages) // 1024):
                content = np.empty((len(part), ram.PAGE), np.uint8)
                store.read(map.slots(part), content)
                digests.extend(ram.checksums(content))
            found[block.name] = digests
        return found
    finally:
        store.close()


def create_looking_in(vm: TestVM, client: QMPClient, name: str) -> dict[str, array[int]]:
    """Create a snapshot; return RAM as it was in the pause, read while the supervisor was stopped in it."""
    known = client.execute("query-vm")
    number = client.send("snapshot-create", {"name": name})
    supervisor = known["supervisor_pid"]
    wait_until(lambda: _state(supervisor) == "T", "the supervisor to stop in the pause")
    try:
        return ram.digests(known["qemu_pid"])
    finally:
        os.kill(supervisor, signal.SIGCONT)
        client.reply("snapshot-create", number)


def id_of(client: QMPClient, name: str) -> str:
    return str(client.execute("query-snapshot", {"name": name})["id"])


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def assert_exact(vm: TestVM, client: QMPClient, name: str) -> None:
    there = create_looking_in(vm, client, name)
    wrong = ram.differing(there, kept(vm, id_of(client, name)))
    assert wrong == [], f"{len(wrong)} pages of {name} are not what RAM was: {wrong[:20]}"


@pytest.mark.long
@pytest.mark.parametrize("tracker", ["userfaultfd", "compare"])
def test_no_page_is_stale_while_a_guest_reads_into_ram_past_the_page_cache(vm_factory: VMFactory, tracker: str) -> None:
    vm = vm_factory(guest="linux", pace_ms=5, disk_mib=64)
    vm.env |= {"SNAPTREE_TRACE": "create.saved=stop", "SNAPTREE_TRACKER": tracker}
    vm.run(cache="none", append="snaptree.readloop=1 snaptree.dirty=8 snaptree.pages=64", memory_mib=192)
    vm.wait_states(2)
    with vm.qmp() as client:
        for number in range(ROUNDS):
            assert_exact(vm, client, f"s{number}")
            vm.wait_states(1, vm.serial_end())
    vm.assert_guest_ok()


def test_ram_that_a_guest_gave_back_is_zero_in_the_next_snapshot_and_comes_back_with_an_older_one(
    vm_factory: VMFactory,
) -> None:
    vm = vm_factory(pace_ms=20)
    vm.env["SNAPTREE_TRACE"] = "create.saved=stop"
    vm.run("-device", "virtio-balloon-pci,id=balloon0")
    vm.wait_states(2)
    with vm.qmp() as client:
        client.execute("stop")
        assert_exact(vm, client, "before")
        before = ram.digests(client.execute("query-vm")["qemu_pid"])
        punched = punch(client.execute("query-vm")["qemu_pid"])
        assert punched
        assert_exact(vm, client, "after")
        now = ram.digests(client.execute("query-vm")["qemu_pid"])
        assert len(ram.differing(before, now)) == punched
        client.execute("snapshot-load", {"name": "before", "keep": False})
        assert ram.differing(before, ram.digests(client.execute("query-vm")["qemu_pid"])) == []
        client.execute("snapshot-load", {"name": "after", "keep": False})
        assert ram.differing(now, ram.digests(client.execute("query-vm")["qemu_pid"])) == []


def punch(pid: int) -> int:
    """Take memory away from RAM as a balloon does (fallocate(2)); return how many pages had some content."""
    (path,) = ram.files(pid).values()
    before = ram.digests(pid)[BLOCK]
    fd = os.open(path, os.O_RDWR)
    try:
        # The guest stands still, and will have it back; what QEMU's devices look at lies in the first MiB.
        ram.punch_hole(fd, 1 << 20, os.fstat(fd).st_size - (1 << 20))
    finally:
        os.close(fd)
    after = ram.digests(pid)[BLOCK]
    return sum(one != other for one, other in zip(before, after, strict=True))


def test_what_qemu_writes_into_ram_at_a_load_is_put_back(vm_factory: VMFactory) -> None:
    address, data = 32 << 20, 0x0123456789ABCDEF
    vm = vm_factory()
    # At every reset, and a load is one, the device writes it there again.
    vm.run("-device", f"loader,addr={address:#x},data={data:#x},data-len=8")
    vm.wait_states(1)
    with vm.qmp() as client:
        client.execute("stop")
        pid = client.execute("query-vm")["qemu_pid"]
        fd = os.open(ram.files(pid)[BLOCK], os.O_RDWR)
        try:
            assert os.pread(fd, 8, address) == data.to_bytes(8, "little")
            os.pwrite(fd, bytes(8), address)
        finally:
            os.close(fd)
        for name in "ab":
            client.execute("snapshot-create", {"name": name})
        before = ram.digests(pid)
        for name in "abba":
            client.execute("snapshot-load", {"name": name, "keep": False})
            assert ram.differing(before, ram.digests(pid)) == []


def test_the_capability_is_on_in_our_jobs_only_and_off_after_a_supervisor_died_in_one(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.env["SNAPTREE_TRACE"] = "create.saved=kill"
    vm.run()
    vm.wait_states(2)
    with vm.qmp() as client:
        supervisor = client.execute("query-vm")["supervisor_pid"]
        client.send("snapshot-create", {"name": "cut-off"})
        wait_until(
            lambda: not Path(f"/proc/{supervisor}").exists() or _state(supervisor) == "Z", "the supervisor's end"
        )
    vm.env["SNAPTREE_TRACE"] = ""
    vm.cli("attach", "--detach", vm.name)
    with vm.qmp() as client:
        assert not ignores_shared(client)
        client.execute("snapshot-create", {"name": "whole"})
        assert not ignores_shared(client)
        client.execute("snapshot-load", {"name": "whole"})
        assert not ignores_shared(client)
    vm.assert_guest_ok()


def ignores_shared(client: QMPClient) -> bool:
    found = client.execute("query-migrate-capabilities")
    return any(item["state"] for item in found if item["capability"] == "x-ignore-shared")
