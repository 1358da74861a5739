"""Where guest RAM lies by a command line, and what is added to it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.commandline import FLAGS, VALUED
from snaptree.qemu.machines import Emulator
from snaptree.qemu.rambackend import RAMBlock, RAMPlan, plan
from snaptree.qemu.ramunseen import groups_of

QEMU = "qemu-system-x86_64"
MIB = 1 << 20
EMULATOR = Emulator(
    version="7.2.22",
    default_machine="pc-i440fx-7.2",
    ram_ids={
        "pc-i440fx-7.2": "pc.ram",
        "pc": "pc.ram",
        "q35": "pc.ram",
        "microvm": "microvm.ram",
        "none": "ram",
        "x-remote": "",
    },
    ram_bytes={"pc-i440fx-7.2": 128 * MIB, "q35": 128 * MIB, "microvm": 128 * MIB, "none": 0},
    saves_snapshots=True,
    ignores_shared=True,
)


def look(line: str, emulator: Emulator = EMULATOR, config: str = "") -> RAMPlan:
    return plan([QEMU, *shlex.split(line)], lambda machine, ram: emulator, lambda path: groups_of(config))


def backend(id: str, size: int, fd: int = 7) -> list[str]:
    file = f"mem-path=/proc/self/fd/{fd},share=on,x-use-canonical-path-for-ramblock-id=off"
    return ["-object", f"memory-backend-file,id={id},size={size},{file}"]


# -- RAM that the machine makes


@pytest.mark.parametrize(
    ("line", "id", "size_mib"),
    [
        ("", "pc.ram", 128),
        ("-m 0", "pc.ram", 128),
        ("-m 256", "pc.ram", 256),
        ("-m 4G", "pc.ram", 4096),
        ("-m 1.5g", "pc.ram", 1536),
        ("-m size=64M", "pc.ram", 64),
        ("-m 262144K", "pc.ram", 256),
        ("-m 256,slots=2,maxmem=1G", "pc.ram", 256),
        ("-m slots=2,maxmem=1G -m 256", "pc.ram", 256),
        ("-m 1G -m 2G", "pc.ram", 2048),
        ("-machine memory.size=512M", "pc.ram", 512),
        ("-machine memory.size=512M -m 256", "pc.ram", 256),
        ("-m 268435455B", "pc.ram", 256),
        ("-M microvm -m 64", "microvm.ram", 64),
        ("-machine type=microvm", "microvm.ram", 128),
        ("-machine q35 -M accel=tcg -m 64", "pc.ram", 64),
        ("-machine accel=tcg -M microvm -m 64", "microvm.ram", 64),
        ("-M q35 -M microvm -m 64", "microvm.ram", 64),
        ("-mem-prealloc -m 64", "pc.ram", 64),
        ("-numa node,mem=64M -m 64", "pc.ram", 64),
        ("-numa cpu,node-id=0 -m 64", "pc.ram", 64),
        ("-object memory-backend-ram,id=other,size=1M -m 64", "pc.ram", 64),
        ("-device nvme,drive=a -drive file=a,if=none,id=a -m 64", "pc.ram", 64),
        ("-netdev tap,id=n,vhost=on -m 64", "pc.ram", 64),
        ("-name -mem-path -append vfio-pci -m 64", "pc.ram", 64),
    ],
)
def test_ram_is_a_shared_file_of_ours_with_the_machines_own_id_and_size(line: str, id: str, size_mib: int) -> None:
    found = look(line)
    assert (found.way, found.reason) == ("pages", "")
    assert found.blocks == found.ours == (RAMBlock(id, size_mib * MIB),)
    argv = [QEMU, *shlex.split(line)]
    assert found.argv({id: 7}) == [*argv, *backend(id, size_mib * MIB), "-machine", f"memory-backend={id}"]
    assert found.ram_id == id


def test_a_lone_numa_node_gets_the_backend_for_itself() -> None:
    found = look("-m 64 -numa node,cpus=0")
    assert found.argv({"pc.ram": 7}) == [
        *(QEMU, "-m", "64", "-numa", "node,cpus=0,memdev=pc.ram"),
        *backend("pc.ram", 64 * MIB),
    ]


# -- backends of the user


@pytest.mark.parametrize(
    ("object", "file"),
    [
        ("memory-backend-ram,id=a,size=64M", "memory-backend-file,id=a,size=64M"),
        ("qom-type=memory-backend-ram,id=a,size=64M", "memory-backend-file,id=a,size=64M"),
        ("id=a,size=64M,qom-type=memory-backend-ram", None),
        ("memory-backend-ram,id=a,size=67108864,share=on", "memory-backend-file,id=a,size=67108864,share=on"),
        ("memory-backend-ram,id=a,size=64M,prealloc=on,host-nodes.0=0,policy=bind", None),
    ],
)
@pytest.mark.parametrize("use", ["-machine memory-backend=a", "-M q35,memory-backend=a", "-numa node,memdev=a"])
def test_private_ram_of_the_users_becomes_a_file_of_ours_under_its_id(object: str, file: str | None, use: str) -> None:
    found = look(f"-object {object} {use} -m 64")
    assert (found.way, found.blocks, found.ram_id) == ("pages", (RAMBlock("a", 64 * MIB),), "")
    argv = found.argv({"a": 5})
    assert argv[:2] + argv[3:] == [QEMU, "-object", *use.split(), "-m", "64"]
    ours = ",mem-path=/proc/self/fd/5,share=on,x-use-canonical-path-for-ramblock-id=off"
    assert argv[2].endswith(ours)
    if file:
        assert argv[2] == file + ours


def test_private_ram_in_json_becomes_a_file_of_ours() -> None:
    value = {"qom-type": "memory-backend-ram", "id": "a", "size": 64 * MIB, "prealloc": True, "host-nodes": [0]}
    found = plan([QEMU, "-object", json.dumps(value), "-machine", "memory-backend=a"], lambda machine, ram: EMULATOR)
    assert found.blocks == (RAMBlock("a", 64 * MIB),)
    assert json.loads(found.argv({"a": 5})[2]) == {
        **value,
        "qom-type": "memory-backend-file",
        "mem-path": "/proc/self/fd/5",
        "share": True,
        "x-use-canonical-path-for-ramblock-id": False,
    }


def test_each_numa_node_keeps_its_own_block() -> None:
    found = look(
        "-object memory-backend-ram,id=a,size=64M -object memory-backend-file,id=b,size=64M,share=on,mem-path=/f,,g"
        " -numa node,memdev=a -numa node,memdev=b -m 128"
    )
    assert found.blocks == (RAMBlock("a", 64 * MIB), RAMBlock("b", 64 * MIB, "/f,g"))
    assert found.ours == (RAMBlock("a", 64 * MIB),)


def test_a_shared_file_of_the_users_is_used_as_it_is() -> None:
    line = "-object memory-backend-file,id=a,size=64M,share=on,mem-path=/f -machine memory-backend=a -m 64"
    found = look(line)
    assert (found.way, found.blocks, found.ours) == ("pages", (RAMBlock("a", 64 * MIB, "/f"),), ())
    assert found.argv({}) == [QEMU, *line.split()]


def test_memory_that_is_plugged_from_the_start_is_a_block_too() -> None:
    found = look("-m 64,slots=1,maxmem=1G -object memory-backend-ram,id=d,size=64M -device pc-dimm,memdev=d")
    assert found.blocks == (RAMBlock("pc.ram", 64 * MIB), RAMBlock("d", 64 * MIB))


# -- the full way


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-mem-path /dev/hugepages", "-mem-path /dev/hugepages"),
        ("-numa node -numa node -m 64", "NUMA nodes"),
        ("-m what", '"what"'),
        ("-M x-remote -m 64", "x-remote"),
        ("-M none", "none"),
        ("-M nonesuch -m 64", "nonesuch"),
        ("-M memory-backend=a", '"a"'),
        ("-numa node,memdev=a", '"a"'),
        ("-object memory-backend-ram,id=pc.ram,size=64M -m 64", "pc.ram"),
        ("-object memory-backend-ram,id=a,size=64M,share=off -M memory-backend=a", "share=off"),
        ("-object memory-backend-ram,id=a,size=what -M memory-backend=a", "size"),
        ("-object memory-backend-file,id=a,size=64M,mem-path=/f -M memory-backend=a", "privately"),
        ("-object memory-backend-file,id=a,size=64M,mem-path=/f,share=off -M memory-backend=a", "privately"),
        ("-object memory-backend-file,id=a,size=64M,mem-path=/f,share=on,offset=4k -M memory-backend=a", "offset"),
        ("-object memory-backend-file,id=a,size=64M,mem-path=/f,share=on,readonly=on -M memory-backend=a", "readonly"),
        ("-object memory-backend-memfd,id=a,size=64M,share=on -M memory-backend=a", "memory-backend-memfd"),
        ("-object memory-backend-shm,id=a,size=64M -M memory-backend=a", "memory-backend-shm"),
        ("-object memory-backend-memfd,id=a,size=64M -m 64", "is no RAM"),
        ("-netdev vhost-user,id=n,chardev=c", "vhost-user"),
        ("-netdev type=vhost-vdpa,id=n", "vhost-vdpa"),
        ("-nic vhost-user,chardev=c", "vhost-user"),
        ("-device vhost-user-fs-pci,chardev=c,tag=t", "vhost-user-fs-pci"),
        ("-device driver=vhost-user-blk-pci,chardev=c", "vhost-user-blk-pci"),
        ('-device \'{"driver":"vfio-pci","host":"01:00.0"}\'', "vfio-pci"),
        ("-device ivshmem-plain,memdev=m", "ivshmem-plain"),
        ("-device virtio-mem-pci,memdev=m", "virtio-mem-pci"),
        ("-device nvdimm,memdev=m", "nvdimm"),
        ("-drive file=nvme://0000:01:00.0/1", "nvme://"),
        ("-blockdev nvme,node-name=a,device=0000:01:00.0,namespace=1", "nvme"),
        ('-blockdev \'{"driver":"raw","file":{"driver":"virtio-blk-vhost-user","path":"/s"}}\'', "vhost-user"),
        ("-M q35,confidential-guest-support=sev0", "confidential-guest-support"),
        ("-readconfig f.cfg", "memory"),
    ],
)
def test_what_cannot_be_had_in_pages_is_left_as_it_is_and_says_why(line: str, says: str) -> None:
    found = look(line, config='# [object "x"]\n[device "d"]\n  driver = "x"\n[memory]\n  size = "1G"\n')
    assert (found.way, found.blocks, found.ours) == ("full", (), ())
    assert found.argv({}) == [QEMU, *shlex.split(line)]
    assert says in found.why
    assert found.why.isprintable()
    assert found.why.endswith(".")


def test_a_configuration_file_without_ram_does_not_matter() -> None:
    assert look("-readconfig f.cfg -m 64", config='[device "memory"]\n  driver = "x"\n# [memory]\n').way == "pages"


@pytest.mark.parametrize(
    "emulator", [replace(EMULATOR, saves_snapshots=False), replace(EMULATOR, ignores_shared=False)]
)
def test_a_qemu_that_is_too_old_is_told(emulator: Emulator) -> None:
    found = look("-m 64", emulator)
    assert (found.way, "QEMU 7.2.22" in found.why) == ("full", True)


def test_ram_without_m_is_asked_for_only_where_it_is_not_given() -> None:
    asked = []

    def ask(machine: str | None, ram: bool) -> Emulator:
        asked.append((machine, ram))
        return EMULATOR

    for line in ("-m 64", "-M q35", "-M microvm -m 1G"):
        plan([QEMU, *line.split()], ask)
    assert asked == [(None, False), ("q35", True), ("microvm", False)]


VALUES = ["node", "a", "q35,memory-backend=a", "memory-backend-ram,id=a,size=1M", '{"qom-type":1}', "{", "", "1G", "\0"]


@given(st.lists(st.sampled_from([*(f"-{name}" for name in sorted(FLAGS | VALUED)), *VALUES])))
def test_any_command_line_gets_a_plan_and_the_full_way_changes_no_word(words: list[str]) -> None:
    found = plan([QEMU, *words], lambda machine, ram: EMULATOR)
    if found.way == "full":
        assert found.why
        assert found.argv({}) == [QEMU, *words]
    else:
        assert found.blocks
