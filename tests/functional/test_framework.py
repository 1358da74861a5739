"""The test framework itself, on plain QEMU: what every other functional test relies on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.framework import processes, warm
from tests.framework.guests import Guest, State, find_trouble, parse_states
from tests.framework.plain import PlainQEMU
from tests.framework.vm import TestVM, VMFactory
from tests.framework.waiting import TIMEOUT_S, wait_until
from tests.guest import build
from tests.guest.firmware import assemble, firmware_image

GUESTS: tuple[Guest, ...] = ("firmware", "linux")


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_counts_in_ram_and_on_both_disks_alike(vm_factory: VMFactory, guest: Guest) -> None:
    vm = vm_factory(guest=guest)
    vm.start_plain_qemu()
    states = vm.wait_states(5)
    assert states[:5] == [State(True, n, (n, n)) for n in range(5)]
    vm.assert_guest_ok()


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_works_with_one_disk_where_it_is_told_so(vm_factory: VMFactory, guest: Guest) -> None:
    vm = vm_factory(guest=guest, disks=1)
    vm.start_plain_qemu(disks="blockdev", cache="none")
    assert vm.wait_state_after(2).disks == (3,)
    vm.assert_guest_ok()


@pytest.mark.parametrize("disks", [("ide", "ide"), ("ide", "virtio"), ("virtio",) * 4])
def test_the_firmware_guest_works_with_disks_of_any_kind(vm_factory: VMFactory, disks: tuple[str, ...]) -> None:
    vm = vm_factory(disks=len(disks))
    drives = [f"file={path},format=qcow2,if={kind}" for path, kind in zip(vm.disks, disks, strict=True)]
    vm.start_plain_qemu(*(word for drive in drives for word in ("-drive", drive)), disks="none")
    states = vm.wait_states(4)
    assert states[:4] == [State(True, n, (n,) * len(disks)) for n in range(4)]
    vm.assert_guest_ok()


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_the_firmware_guest_begins_anew_when_the_machine_is_reset(vm_factory: VMFactory, machine: str) -> None:
    vm = vm_factory()
    plain = vm.start_plain_qemu("-machine", machine)
    vm.wait_states(3)
    plain.qmp.execute("stop")
    since = vm.serial_end()
    plain.qmp.execute("system_reset")
    plain.qmp.execute("cont")
    assert vm.wait_states(3, since)[:3] == [State(True, n, (n, n)) for n in range(3)]
    vm.assert_guest_ok()


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_that_misses_a_disk_fails_loudly(vm_factory: VMFactory, guest: Guest) -> None:
    vm = vm_factory(guest=guest)
    vm.start_plain_qemu("-drive", f"file={vm.disks[0]},format=qcow2,if=virtio", disks="none")
    with pytest.raises(AssertionError, match="GUEST-FAILED"):
        vm.wait_states(1)


def save(vm: TestVM, plain: PlainQEMU) -> int:
    """Save a snapshot "s" of a stopped VM, which goes on afterwards; return the counter of its last line."""
    plain.qmp.execute("stop")
    counter = vm.states()[-1].ram
    assert plain.qmp.hmp("savevm s") == ""
    plain.qmp.execute("cont")
    return counter


def load(vm: TestVM, plain: PlainQEMU) -> int:
    """Load it; return the counter of the first line that the guest said afterwards."""
    plain.qmp.execute("stop")
    since = vm.serial_end()
    assert plain.qmp.hmp("loadvm s") == ""
    plain.qmp.execute("cont")
    return vm.wait_states(1, since)[0].ram


@pytest.mark.parametrize("guest", GUESTS)
def test_savevm_and_loadvm_of_plain_qemu_bring_back_the_counters(vm_factory: VMFactory, guest: Guest) -> None:
    vm = vm_factory(guest=guest)
    plain = vm.start_plain_qemu()
    vm.wait_states(3)
    saved = save(vm, plain)
    vm.wait_state_after(saved + 4)
    # One line may have been cut in two by the load.
    assert load(vm, plain) in (saved + 1, saved + 2)
    vm.assert_guest_ok()


def test_a_snapshot_goes_on_in_a_new_process(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = vm.start_plain_qemu()
    vm.wait_states(3)
    saved = save(vm, plain)
    vm.wait_state_after(saved + 4)
    plain.kill()
    since = vm.serial_end()
    vm.start_plain_qemu("-loadvm", "s")
    assert vm.wait_states(1, since)[0].ram in (saved + 1, saved + 2)
    vm.assert_guest_ok()


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_sees_that_one_disk_is_of_another_moment(vm_factory: VMFactory, guest: Guest) -> None:
    vm = vm_factory(guest=guest)
    plain = vm.start_plain_qemu(disks="blockdev")
    vm.wait_states(3)
    for command, job in (("snapshot-save", "save"), ("snapshot-load", "load")):
        since = len(plain.qmp.events)
        arguments = {"job-id": job, "tag": "s", "vmstate": "disk-a", "devices": ["disk-a"]}
        plain.qmp.execute(command, arguments)
        plain.qmp.wait_event("JOB_STATUS_CHANGE", since, id=job, status="concluded")
        assert "error" not in plain.qmp.execute("query-jobs")[0]
        plain.qmp.execute("job-dismiss", {"id": job})
        vm.wait_states(len(vm.states()) + 2)
    with pytest.raises(AssertionError, match="STATE MISMATCH"):
        vm.assert_guest_ok()


def test_a_guest_sees_a_page_of_ram_that_is_of_another_moment(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    backend = f"memory-backend-file,id=pc.ram,size=128M,share=on,mem-path={vm.root}/ram"
    plain = vm.start_plain_qemu("-object", backend, "-M", "memory-backend=pc.ram")
    vm.wait_states(3)
    plain.qmp.execute("stop")
    with (vm.root / "ram").open("r+b") as ram:
        ram.seek(0x51000)
        ram.write(b"\0\0\0\0")
    plain.qmp.execute("cont")
    vm.wait_serial("^STATE MISMATCH ram=0 ")


def test_a_machine_may_have_a_flash_for_variables_as_with_uefi(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = vm.start_plain_qemu(*vm.pflash_args(vm.new_image("vars", "64K")))
    vm.wait_states(2)
    assert "pflash1" in {block["device"] for block in plain.qmp.execute("query-block")}
    vm.assert_guest_ok()


@pytest.mark.usefixtures("kvm")
def test_the_firmware_guest_counts_under_kvm_and_comes_back(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    plain = vm.start_plain_qemu(accel="kvm")
    vm.wait_states(3)
    saved = save(vm, plain)
    vm.wait_state_after(saved + 4)
    assert load(vm, plain) in (saved + 1, saved + 2)
    vm.assert_guest_ok()


def test_the_linux_guest_keeps_all_its_ram_right_while_it_writes_and_reads_all_the_time(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux")
    vm.start_plain_qemu(cache="none", append="snaptree.pages=64 snaptree.fill=4 snaptree.dirty=4 snaptree.readloop=1")
    vm.wait_states(5)
    vm.assert_guest_ok()


def test_nothing_that_a_test_started_is_left(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.start_plain_qemu()
    detached = ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &"]
    vm.tool(*detached)
    wait_until(lambda: "sleep 1000" in [processes.command_line(pid) for pid in processes.marked(str(vm.root))], "sleep")
    left = processes.marked(str(vm.root))
    assert len(left) == 2
    assert os.getpid() not in left
    assert "sleep 1000" in vm.logs()["processes"]
    vm.clean_up()
    assert processes.marked(str(vm.root)) == []
    assert not vm.root.exists()


@pytest.mark.qemu("10")
def test_a_process_that_begins_warm_is_as_if_it_were_started(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.env["SNAPTREE_HOME"] = str(vm.root / "elsewhere")
    vm.run()
    supervisor = vm.cli_json("vms")[0]["supervisor_pid"]
    environ = Path(f"/proc/{supervisor}/environ").read_bytes().split(b"\0")
    assert [word for word in environ if word.startswith(processes.MARK.encode())] == [
        f"{processes.MARK}={vm.root}".encode()
    ]
    assert (vm.root / "elsewhere" / "vms" / "dev").is_dir()
    failed = vm.cli("list", "nobody", check=False)
    assert (failed.returncode, failed.stdout) == (3, "")
    assert 'There is no VM "nobody"' in failed.stderr


@pytest.mark.qemu("10")
@pytest.mark.parametrize("cold", [False, True])
def test_how_a_process_ended_is_known_and_its_environment_is_its_own(vm_factory: VMFactory, cold: bool) -> None:
    vm = vm_factory()
    vm.run()
    vm.cli("stop", "dev", "--discard")
    env = {**vm.env, **({"PYTHONUTF8": "1"} if cold else {})}
    words = ("create", "dev", "s")
    done = warm.run(words, {**env, "SNAPTREE_TRACE": "offline-create.begun=kill"}, vm.root, TIMEOUT_S)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(words, {**env, "SNAPTREE_TRACE": "offline-create.begun=stop"}, vm.root, 1)
    with (vm.root / "said").open("wb") as said, warm.Process(words, env, vm.root, said, said) as process:
        assert process.wait(TIMEOUT_S) == process.poll() == 0
    assert "s" in (vm.root / "said").read_text()


@pytest.mark.qemu("10")
def test_a_test_may_ask_for_one_version(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    assert "version 10." in vm.tool("qemu-system-x86_64", "--version").stdout
    assert "version 10." in vm.tool("qemu-img", "--version").stdout


def test_a_line_that_a_load_put_together_from_two_is_left_out() -> None:
    serial = "STATE OK ram=1 a=1 b=1\r\nSTATE OK ram=25 a=15 b=15\nSTATE OSTATE OK ram=2 a=2\nSTATE OK ram=3 a=3 b=3"
    assert parse_states(serial) == [State(True, 1, (1, 1))]
    assert find_trouble(serial) is None


def test_a_mismatch_is_trouble_and_a_state() -> None:
    serial = "STATE OK ram=1 a=1 b=1\nSTATE MISMATCH ram=2 a=2 b=1\nGUEST-FAILED x\n"
    assert parse_states(serial)[1] == State(False, 2, (2, 1))
    assert find_trouble(serial) == "GUEST-FAILED x"
    assert find_trouble("STATE MISMATCH readloop\r\n") == "STATE MISMATCH readloop"


def test_the_listing_is_assembled_to_the_letter() -> None:
    image = assemble('@0002 top: EB short:top E8 near:end ; x ";"\n BE at:end byte:n word:n "a;b" 00\nend:', {"n": 7})
    assert image[:20] == bytes.fromhex("0000 ebfe e80a00 be1100 07 0700 613b62 00 000000".replace(" ", ""))[:20]


@pytest.mark.parametrize("disks", [0, 5])
def test_the_firmware_guest_has_one_to_four_disks(disks: int) -> None:
    with pytest.raises(ValueError, match="1 to 4 disks"):
        firmware_image(disks=disks)


def test_an_initramfs_is_reproducible_and_padded_as_cpio_wants_it() -> None:
    entries = [build.Entry("a", 0o100644, b"12345"), build.Entry("bb", 0o100755)]
    archive = build.cpio(entries)
    assert archive == build.cpio(entries)
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 3
    assert b"TRAILER!!!\0" in archive
