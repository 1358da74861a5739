"""``run`` puts guest RAM into memfds that QEMU maps shared, where the command line lets it; else it says why not."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.plain import PlainQEMU
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until
from tests.functional.main.terminal import Started
from tests.functional.main.untouched import fails, fails_json
from tests.functional.traps.safety import bare, run_job, under_care

from snaptree.qemu import machines
from snaptree.qemu.rambackend import RAMPlan, plan
from snaptree.qemu.ramfiles import memfds

MIB = 1 << 20


def planned(vm: TestVM, line: str) -> RAMPlan:
    argv = [str(vm.qemu.system), "-display", "none", "-S", *shlex.split(line)]
    cache = vm.root / "emulators.json"
    return plan(argv, lambda machine, ram: machines.ask(argv[0], vm.root, cache, machine=machine, ram=ram))


@contextmanager
def started(vm: TestVM, found: RAMPlan) -> Iterator[PlainQEMU]:
    with memfds(found.ours) as made:
        plain = PlainQEMU(found.argv(made), vm.env, vm.root, 0, tuple(made.values()))
    try:
        yield plain
    finally:
        plain.kill()


def mapped(pid: int) -> dict[str, int]:
    """Return the bytes that a process maps shared of each memfd of ours, by block."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(None, 5)
        if len(words) > 5 and words[5].startswith("/memfd:snaptree:"):
            assert words[1] == "rw-s"
            start, end = (int(word, 16) for word in words[0].split("-"))
            id = words[5].removeprefix("/memfd:snaptree:").removesuffix(" (deleted)")
            found[id] = found.get(id, 0) + end - start
    return found


def descriptors(pid: int) -> list[str]:
    return sorted(str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())


def record(vm: TestVM) -> dict[str, object]:
    found = json.loads((vm.home / "vms" / vm.name / "command.json").read_text())
    assert isinstance(found, dict)
    return found


def memory(vm: TestVM) -> tuple[str, str]:
    found = record(vm)["memory"]
    assert isinstance(found, dict)
    return found["way"], found["why"]


def own_pid(vm: TestVM) -> int:
    return int(json.loads((vm.home / "vms" / vm.name / "running.json").read_text())["qemu_pid"])


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ("", {"pc.ram": 128}),
        ("-m 0", {"pc.ram": 128}),
        ("-m 96M", {"pc.ram": 96}),
        ("-m 0.125G,slots=2,maxmem=1G", {"pc.ram": 128}),
        ("-m slots=2,maxmem=1G -m 64", {"pc.ram": 64}),
        ("-machine memory.size=64M", {"pc.ram": 64}),
        ("-machine memory.size=64M -m 96", {"pc.ram": 96}),
        ("-m 96 -machine memory.size=64M", {"pc.ram": 96}),
        ("-machine q35 -machine accel=tcg -m 64", {"pc.ram": 64}),
        ("-M type=q35,accel=tcg", {"pc.ram": 128}),
        ("-M microvm", {"microvm.ram": 128}),
        ("-M isapc -m 64", {"pc.ram": 64}),
        ("-M pc-i440fx-3.1 -m 64", {"pc.ram": 64}),
        ("-M pc-i440fx-4.0 -m 64 -numa node,mem=64M", {"pc.ram": 64}),
        ("-numa node -m 64", {"pc.ram": 64}),
        ("-m 64 -mem-prealloc", {"pc.ram": 64}),
        ("-object memory-backend-ram,id=x,size=64M,prealloc=on -M q35,memory-backend=x", {"x": 64}),
        ("-M pc-i440fx-3.1,memory-backend=x -object qom-type=memory-backend-ram,id=x,size=64M", {"x": 64}),
        (
            "-m 128 -smp 2 -object memory-backend-ram,id=a,size=64M -numa node,memdev=a -numa node,memdev=b"
            ' -object \'{"qom-type":"memory-backend-ram","id":"b","size":67108864,"reserve":false}\'',
            {"a": 64, "b": 64},
        ),
        (
            "-m 64,slots=1,maxmem=1G -object memory-backend-ram,id=d,size=128M -device pc-dimm,memdev=d",
            {"pc.ram": 64, "d": 128},
        ),
    ],
)
def test_qemu_starts_with_its_ram_in_our_memfds_and_calls_the_blocks_as_without_us(
    vm_factory: VMFactory, line: str, blocks: dict[str, int]
) -> None:
    vm = vm_factory(disks=0, guest="linux")
    found = planned(vm, line)
    sizes = {id: size * MIB for id, size in blocks.items()}
    assert {block.id: block.size_bytes for block in found.blocks} == sizes, found.why
    with started(vm, found) as plain:
        assert mapped(plain.pid) == sizes
        backends = plain.qmp.execute("query-memdev")
        assert {item["id"]: (item["size"], item["share"]) for item in backends} == {
            id: (size, True) for id, size in sizes.items()
        }
        assert all(item["prealloc"] == ("prealloc" in line) for item in backends)
        # The names by which the VM state knows the blocks; QEMU prints them nowhere else.
        told = plain.qmp.execute("human-monitor-command", {"command-line": "info ramblock"})
        assert set(blocks) <= {row.split()[0] for row in told.splitlines()[1:] if row.strip()}


def test_a_shared_file_of_the_users_is_used_and_nothing_is_added(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0, guest="linux")
    file = vm.root / "ram"
    found = planned(vm, f"-object memory-backend-file,id=x,size=64M,share=on,mem-path={file} -M q35,memory-backend=x")
    assert (found.way, found.ours) == ("pages", ())
    with started(vm, found) as plain:
        assert mapped(plain.pid) == {}
        assert str(file) in descriptors(plain.pid)


def test_qemu_holds_the_memfd_and_inherits_nothing_else_of_ours(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    argv = bare(vm)
    run = Started(vm, "run", vm.name, "--", *argv)
    with vm.qmp() as client:
        qemu = client.execute("query-vm")["qemu_pid"]
        assert mapped(qemu) == {"pc.ram": 64 * MIB}
        assert memory(vm) == ("pages", "")
        assert record(vm)["argv"] == argv
        held = descriptors(qemu)
        # One that we have given, one by which QEMU has opened it.
        assert held.count("/memfd:snaptree:pc.ram (deleted)") == 2
        assert [name for name in held if str(vm.home) in name and not name.endswith("qemu.log")] == []
        os.kill(qemu, signal.SIGKILL)
    assert run.wait()[0] == 1
    assert processes.marked(str(vm.root)) == []


def test_full_leaves_the_command_line_as_it_is(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.cli("run", "--detach", "--memory", "full", vm.name, "--", *bare(vm))
    assert mapped(own_pid(vm)) == {}
    assert b"memory-backend" not in Path(f"/proc/{own_pid(vm)}/cmdline").read_bytes()
    way, why = memory(vm)
    assert way == "full"
    assert "--memory full" in why


@pytest.mark.parametrize("words", [["-mem-path", "/dev/shm"], ["-device", "vhost-user-blk-pci,chardev=c"]])
@pytest.mark.qemu("10")
def test_pages_that_cannot_be_had_are_refused_before_anything_is_started(
    vm_factory: VMFactory, words: list[str]
) -> None:
    vm = vm_factory()
    said = fails(vm, "run", "--detach", "--memory", "pages", vm.name, "--", *bare(vm, *words), code=4)
    assert words[1].partition(",")[0] in said
    assert vm.cli_json("vms") == []
    assert processes.marked(str(vm.root)) == []


@pytest.mark.qemu("10")
def test_more_ram_than_the_host_has_is_refused_with_the_figures(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    error = fails_json(vm, "run", "--detach", vm.name, "--", *bare(vm, memory_mib=900 << 10), code=4)
    assert error["code"] == "refused"
    assert "921600 MiB" in error["message"]
    assert "--memory full" in error["remedy"]
    assert vm.cli_json("vms") == []


def test_a_command_line_that_cannot_have_it_runs_the_full_way_and_says_why(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm, "-mem-path", "/dev/shm")):
        assert mapped(own_pid(vm)) == {}
        way, why = memory(vm)
        assert way == "full"
        assert '"-mem-path /dev/shm"' in why


def script(vm: TestVM, body: str) -> str:
    path = vm.root / "start"
    path.write_text(f"#!/bin/sh\nQEMU={vm.qemu.system}\n{body}\n")
    path.chmod(stat.S_IRWXU)
    return "./start"


@pytest.mark.parametrize(
    ("body", "way", "says"),
    [
        ('exec $QEMU -accel tcg "$@"', "pages", ""),
        ('exec $QEMU -m 96 "$@"', "pages", ""),
        ('exec $QEMU -M microvm -m 96 "$@"', "full", "microvm"),
        ('exec $QEMU -mem-path /dev/shm -m 96 "$@"', "full", "mem-path"),
        ('exec $QEMU "$@" -m 96', "full", "memory size"),
        ('exec $QEMU -M q35 -display none "$@" -name "$#"', "pages", ""),
        ('case "$*" in *"-machine none"*) exit 1; esac; exec $QEMU "$@"', "full", "machine types"),
    ],
)
def test_a_script_that_starts_qemu_works_whatever_it_adds(
    vm_factory: VMFactory, body: str, way: str, says: str
) -> None:
    vm = vm_factory()
    argv = [script(vm, body), "-display", "none", "-nodefaults"]
    argv += ["-m", "64"] if body.endswith("-m 96") else []
    vm.cli("run", "--detach", vm.name, "--", *argv)
    found, why = memory(vm)
    assert found == way, why
    assert says in why
    assert bool(mapped(own_pid(vm))) == (way == "pages")


def test_a_qemu_is_asked_once_and_without_a_trace(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.home.mkdir(mode=0o700)  # nothing is known there
    for _ in range(2):
        with under_care(vm, bare(vm)):
            pass
    kept = json.loads((vm.home / "emulators.json").read_text())
    assert [Path(path).name for path in kept] == ["qemu-system-x86_64"]
    assert stat.S_IMODE((vm.home / "emulators.json").stat().st_mode) == 0o600
    assert processes.marked(str(vm.root)) == []


def test_a_plain_qemus_snapshot_loads_with_our_backend_and_ours_with_none(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    argv = bare(vm, disks="blockdev")
    job = {"tag": "theirs", "vmstate": "disk-a", "devices": ["disk-a"]}
    plain = PlainQEMU([str(vm.qemu.system), *argv[1:]], vm.env, vm.root, 0)
    try:
        assert run_job(plain.qmp, "snapshot-save", **job) == ""
    finally:
        plain.kill()
    found = planned(vm, shlex.join(argv[1:]))
    with started(vm, found) as ours:
        assert run_job(ours.qmp, "snapshot-load", **job) == ""
        assert run_job(ours.qmp, "snapshot-save", **{**job, "tag": "ours"}) == ""
    plain = PlainQEMU([str(vm.qemu.system), *argv[1:]], vm.env, vm.root, 1)
    try:
        assert run_job(plain.qmp, "snapshot-load", **{**job, "tag": "ours"}) == ""
    finally:
        plain.kill()


def test_a_later_supervisor_knows_the_reason(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.cli("run", "--detach", vm.name, "--", *bare(vm, "-mem-path", "/dev/shm"))
    supervisor = vm.cli_json("vms")[0]["supervisor_pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: vm.cli_json("vms")[0]["state"] == "unsupervised", "the supervisor's end")
    vm.cli("attach", "--detach", vm.name)
    assert "-mem-path" in memory(vm)[1]
    assert "-mem-path" in json.dumps(vm.cli_json("status", vm.name))
