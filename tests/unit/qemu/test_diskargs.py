"""Which words name images, and that everything else stays to the letter; QEMU judges in tests/functional."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.commandline import FLAGS, VALUED
from snaptree.qemu.diskargs import disks, with_disks

QEMU = "qemu-system-x86_64"
NEW = {"/w/a.qcow2": "/n/a,1.qcow2", "/w/b,c.qcow2": "/n/b.qcow2"}
STOP = "rerror=stop,werror=stop"


def changed(*words: str) -> list[str]:
    """Replace what is there of the images."""
    argv = [QEMU, *words]
    there = {image for image in NEW if any(image.rpartition("/")[2] in word.replace(",,", ",") for word in words)}
    done = with_disks(argv, {image: NEW[image] for image in there}, "/w")
    assert done.reasons == (), done.reasons
    assert done.argv[0] == QEMU
    return list(done.argv[1:])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-drive file=/w/a.qcow2,if=virtio,cache=none", f"-drive file=/n/a,,1.qcow2,if=virtio,cache=none,{STOP}"),
        ("-drive if=virtio,file=a.qcow2", f"-drive if=virtio,file=/n/a,,1.qcow2,{STOP}"),
        ("--drive file=file:./a.qcow2", f"--drive file=/n/a,,1.qcow2,{STOP}"),
        ("-drive file=b,,c.qcow2,werror=report,x=,,y", "-drive file=/n/b.qcow2,werror=report,x=,,y,rerror=stop"),
        ("-drive file.filename=a.qcow2,readonly", f"-drive file.filename=/n/a,,1.qcow2,readonly,{STOP}"),
        ("-drive if=pflash,unit=1,file=a.qcow2", "-drive if=pflash,unit=1,file=/n/a,,1.qcow2"),
        (
            "-drive if=none,id=d,file=a.qcow2 -device virtio-blk-pci,drive=d",
            f"-drive if=none,id=d,file=/n/a,,1.qcow2 -device virtio-blk-pci,drive=d,{STOP}",
        ),
        (
            "-drive if=none,id=d,file=a.qcow2 -device floppy,drive=d",
            "-drive if=none,id=d,file=/n/a,,1.qcow2 -device floppy,drive=d",
        ),
        (
            "-blockdev qcow2,node-name=a,file.driver=file,file.filename=a.qcow2 -device scsi-hd,drive=a,werror=ignore",
            "-blockdev qcow2,node-name=a,file.driver=file,file.filename=/n/a,,1.qcow2"
            " -device scsi-hd,drive=a,werror=ignore,rerror=stop",
        ),
        (
            "-blockdev file,node-name=f,filename=a.qcow2 -blockdev qcow2,node-name=q,file=f"
            " -blockdev throttle,node-name=t,file=q,throttle-group=g -device ide-hd,drive=t",
            "-blockdev file,node-name=f,filename=/n/a,,1.qcow2 -blockdev qcow2,node-name=q,file=f"
            f" -blockdev throttle,node-name=t,file=q,throttle-group=g -device ide-hd,drive=t,{STOP}",
        ),
        (
            "-device usb-storage,drive=q -blockdev qcow2,node-name=q,file=f"
            " -blockdev host_device,node-name=f,filename=/w/a.qcow2",
            f"-device usb-storage,drive=q,{STOP} -blockdev qcow2,node-name=q,file=f"
            " -blockdev file,node-name=f,filename=/n/a,,1.qcow2",
        ),
        ("-hda a.qcow2 -m 1G", f"-drive file=/n/a,,1.qcow2,format=qcow2,index=0,media=disk,{STOP} -m 1G"),
        ("-hdd b,c.qcow2", f"-drive file=/n/b.qcow2,format=qcow2,index=3,media=disk,{STOP}"),
        ("-m 1G a.qcow2 -S", f"-m 1G -drive file=/n/a,,1.qcow2,format=qcow2,index=0,media=disk,{STOP} -S"),
        ("-pflash a.qcow2", "-pflash /n/a,1.qcow2"),
        (
            "-append a.qcow2 -kernel /w/a.qcow2 -hda a.qcow2",
            f"-append a.qcow2 -kernel /w/a.qcow2 -drive file=/n/a,,1.qcow2,format=qcow2,index=0,media=disk,{STOP}",
        ),
    ],
)
def test_the_image_is_replaced_and_the_rest_stays_to_the_letter(words: str, expected: str) -> None:
    assert changed(*words.split(" ")) == expected.split(" ")


def test_json_is_changed_where_it_names_the_image() -> None:
    node = {"driver": "qcow2", "node-name": "a", "file": {"driver": "host_device", "filename": "/w/a.qcow2", "x": True}}
    device = {"driver": "virtio-blk-pci", "drive": "a", "id": "d"}
    words = changed("-blockdev", json.dumps(node), "-device", json.dumps(device))
    assert json.loads(words[1]) == {**node, "file": {"driver": "file", "filename": "/n/a,1.qcow2", "x": True}}
    assert json.loads(words[3]) == {**device, "rerror": "stop", "werror": "stop"}
    flat = {"driver": "qcow2", "node-name": "a", "file.driver": "host_device", "file.filename": "/w/a.qcow2"}
    assert json.loads(changed("-blockdev", json.dumps(flat))[1]) == {
        **flat, "file.driver": "file", "file.filename": "/n/a,1.qcow2"
    }  # fmt: skip


def test_a_host_device_becomes_a_file() -> None:
    assert changed("-drive", "if=ide,file.driver=host_device,file.filename=a.qcow2") == [
        "-drive",
        f"if=ide,file.driver=file,file.filename=/n/a,,1.qcow2,{STOP}",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "-drive file=a.qcow2,backing.file.filename=x",
        "-blockdev qcow2,node-name=q,file.driver=file,file.filename=a.qcow2,backing=b",
        "-blockdev file,node-name=f,filename=a.qcow2 -blockdev qcow2,node-name=q,file=f,backing=b",
        '-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"},"backing":null}',
        '-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"},"backing":{"driver":"null-co"}}',
    ],
)
def test_an_image_whose_backing_image_the_user_chose_is_named(words: str) -> None:
    done = with_disks([QEMU, *words.split(" ")], {"/w/a.qcow2": "/n"}, "/w")
    assert [reason.code for reason in done.reasons] == ["disk-with-backing"]


def test_a_backing_image_of_that_name_is_not_replaced() -> None:
    argv = [QEMU, "-drive", "file=x.qcow2,backing.file.filename=a.qcow2"]
    done = with_disks(argv, {"/w/a.qcow2": "/n"}, "/w")
    assert list(done.argv) == argv
    assert [reason.code for reason in done.reasons] == ["disk-not-found"]
    assert '"/w/a.qcow2"' in done.reasons[0].message


def test_placeholders_stay_and_what_stands_for_them_finds_the_image() -> None:
    argv = [QEMU, "-name", "{vm}", "-drive", "file={dir}/a.qcow2,if=virtio"]
    done = with_disks(argv, {"/d/a.qcow2": "/n/{vm}.qcow2"}, "/w", {"dir": "/d", "vm": "dev"})
    assert done == with_disks(argv, {"/d/a.qcow2": "/n/{vm}.qcow2"}, "/", {"dir": "/d", "vm": "dev"})
    assert done.argv[1:] == ("-name", "{vm}", "-drive", f"file=/n/{{{{vm}}}}.qcow2,if=virtio,{STOP}")
    assert done.reasons == ()


def test_every_place_that_names_a_file_is_found() -> None:
    line = "x.img -hdb b -cdrom c.iso -drive file=d,,e,if=virtio -blockdev file,node-name=f,filename=g -m 1G -pflash h"
    found = disks([QEMU, *line.split(" ")])
    assert [(disk.option, disk.image) for disk in found] == [
        ("", "x.img"), ("hdb", "b"), ("cdrom", "c.iso"), ("drive", "d,e"), ("blockdev", "g"), ("pflash", "h")
    ]  # fmt: skip
    assert all(disk.image.replace(",", ",,") in [QEMU, *line.split(" ")][disk.at] for disk in found)


WORDS = st.sampled_from(
    [
        *(f"-{name}" for name in sorted(FLAGS | VALUED)),
        "a,,b=c",
        "{",
        '{"a":1}',
        '{"file":[]}',
        "file=",
        "",
        "-",
        "x.img",
    ]
)


@given(st.lists(WORDS, max_size=12))
def test_any_words_are_read_and_stay_where_nothing_is_replaced(words: list[str]) -> None:
    argv = [QEMU, *words]
    assert list(with_disks(argv, {}).argv) == argv
    assert all(0 < disk.at < len(argv) for disk in disks(argv))
