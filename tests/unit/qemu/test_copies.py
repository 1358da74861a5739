"""What copies of a VM cannot all have is refused by name, with the place for a placeholder; the rest is not."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.commandline import FLAGS, VALUED
from snaptree.qemu.copies import collisions
from snaptree.qemu.placeholders import wanted

QEMU = "qemu-system-x86_64"


def refused(line: str) -> list[tuple[str, str]]:
    """Return the code and what is taken, for each refusal."""
    found = collisions([QEMU, *shlex.split(line)]).refusals
    return [(reason.code, reason.message.rpartition('"')[0].rpartition('"')[2]) for reason in found]


@pytest.mark.parametrize(
    ("line", "code", "what"),
    [
        ("-netdev user,id=n,hostfwd=tcp::2222-:22", "fork-port", "2222"),
        ("-netdev user,id=n,hostfwd=tcp:127.0.0.1:80-10.0.2.15:80", "fork-port", "80"),
        ("-nic user,hostfwd=udp::53-:53", "fork-port", "53"),
        ("-nic user,hostfwd=unix:/s-:22", "fork-socket", "/s"),
        ("""-netdev '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"}]}'""", "fork-port", "2222"),
        ("-netdev socket,id=n,listen=:1234", "fork-port", "1234"),
        ("-netdev socket,id=n,udp=1.2.3.4:5,localaddr=:7", "fork-port", "7"),
        ("-netdev stream,id=n,server=on,addr.type=unix,addr.path=/n", "fork-socket", "/n"),
        ("-netdev stream,id=n,server=on,addr.type=inet,addr.host=h,addr.port=9", "fork-port", "9"),
        ("-netdev dgram,id=n,local.type=inet,local.host=h,local.port=9", "fork-port", "9"),
        ("-netdev tap,id=n,ifname=tap3", "fork-interface", "tap3"),
        ("-nic tap,fd=5", "fork-descriptor", "5"),
        ("-vnc :1", "fork-port", "5901"),
        ("-vnc 127.0.0.1:0,password=on", "fork-port", "5900"),
        ("-vnc unix:/v", "fork-socket", "/v"),
        ("-vnc unix:{dir}/v,websocket=5701", "fork-port", "5701"),
        ("-display vnc=:2", "fork-port", "5902"),
        ("-spice port=5930,disable-ticketing=on", "fork-port", "5930"),
        ("-spice tls-port=5931", "fork-port", "5931"),
        ("-spice unix=on,addr=/s", "fork-socket", "/s"),
        ("-chardev socket,id=c,host=h,port=4,server=on", "fork-port", "4"),
        ("-chardev socket,id=c,path=/c,server=on,wait=off", "fork-socket", "/c"),
        ("-chardev socket,id=c,path=/c,server", "fork-socket", "/c"),
        ("-chardev socket,id=c,path=/c -tpmdev emulator,id=t,chardev=c", "fork-client", "/c"),
        ("-chardev socket,id=c,path=/c -netdev vhost-user,id=n,chardev=c", "fork-client", "/c"),
        ("-chardev socket,id=c,path=/c -device vhost-user-fs-pci,chardev=c,tag=t", "fork-client", "/c"),
        ("-chardev socket,id=c,fd=9", "fork-descriptor", "9"),
        ("-chardev udp,id=c,host=h,port=1,localport=2", "fork-port", "2"),
        ("-chardev file,id=c,path=/log,append=on", "fork-file", "/log"),
        ("-chardev pipe,id=c,path=/p", "fork-file", "/p"),
        ("-chardev null,id=c,logfile=/l", "fork-file", "/l"),
        ("-chardev serial,id=c,path=/dev/ttyS0", "fork-host-device", "/dev/ttyS0"),
        ("-serial file:serial.log", "fork-file", "serial.log"),
        ("-serial mon:tcp::4444,server=on", "fork-port", "4444"),
        ("-serial telnet:localhost:4321,server,nowait", "fork-port", "4321"),
        ("-serial udp:h:1@:2", "fork-port", "2"),
        ("-serial /dev/ttyS0", "fork-host-device", "/dev/ttyS0"),
        ("-monitor unix:/m,server,nowait", "fork-socket", "/m"),
        ("-qmp unix:/q,server=on,wait=off", "fork-socket", "/q"),
        ("-qmp tcp:localhost:5,server=on", "fork-port", "5"),
        ("-debugcon file:/d", "fork-file", "/d"),
        ("-gdb tcp::1234", "fork-port", "1234"),
        ("-s", "fork-port", "1234"),
        ("-pidfile /p", "fork-file", "/p"),
        ("-D /d", "fork-file", "/d"),
        ("-trace enable=x,file=/t", "fork-file", "/t"),
        ("-icount shift=1,rr=record,rrfile=/r", "fork-file", "/r"),
        ("-audiodev wav,id=a,path=/w", "fork-file", "/w"),
        ("-object filter-dump,id=f,netdev=n,file=/f", "fork-file", "/f"),
        ("-object memory-backend-file,id=m,size=1G,mem-path=/m,share=on", "fork-file", "/m"),
        ("""-object '{"qom-type":"memory-backend-file","id":"m","mem-path":"/m","share":true}'""", "fork-file", "/m"),
        ("-object input-linux,id=i,evdev=/dev/input/event1", "fork-host-device", "/dev/input/event1"),
        ("-device vhost-vsock-pci,guest-cid=3", "fork-cid", "3"),
        ("""-device '{"driver":"vhost-vsock-pci","guest-cid":3}'""", "fork-cid", "3"),
        ("-device usb-host,vendorid=1,productid=2", "fork-host-device", "1"),
        ("-device vfio-pci,host=01:00.0", "fork-host-device", "01:00.0"),
        ("-add-fd fd=3,set=1", "fork-descriptor", "3"),
    ],
)
def test_what_only_one_vm_can_have_is_refused(line: str, code: str, what: str) -> None:
    assert refused(line) == [(code, what)]


@pytest.mark.parametrize(
    "line",
    [
        "-netdev user,id=n,hostfwd=tcp::{port:ssh}-:22,hostfwd=tcp:127.0.0.1:{port:web}-:80",
        "-netdev user,id=n,hostfwd=tcp::0-:22,guestfwd=tcp:10.0.2.100:1-cmd:cat",
        "-netdev socket,id=n,mcast=230.0.0.1:1234",
        "-netdev socket,id=n,connect=:1234",
        "-netdev stream,id=n,server=off,addr.type=unix,addr.path=/n",
        "-netdev tap,id=n,script=no -netdev bridge,id=m,br=b0",
        "-vnc unix:{dir}/v -vnc none -vnc :0,to=99 -vnc h:5500,reverse=on -display none -display gtk -display vnc=none",
        "-spice port={port:spice} -spice unix=on,addr={dir}/s",
        "-chardev socket,id=c,path={dir}/c,server=on -chardev socket,id=d,path=/shared/logger",
        "-chardev file,id=c,path={dir}/log -chardev file,id=d,path=/dev/null -chardev pty,id=e -chardev stdio,id=f",
        "-chardev socket,id=c,path={dir}/tpm -tpmdev emulator,id=t,chardev=c",
        "-serial file:{dir}/serial.log -serial file:/tmp/{vm}.log -serial null -serial chardev:c -serial vc",
        "-serial tcp:logger:514 -serial mon:stdio -serial tcp::{port:s},server=on",
        "-monitor none -qmp unix:{dir}/q,server=on,wait=off -gdb tcp::{port:gdb} -pidfile {dir}/pid -D {dir}/log",
        "-trace enable=x -icount shift=1 -audiodev none,id=a",
        "-object memory-backend-file,id=m,size=1G,mem-path=/m -object memory-backend-ram,id=m,size=1G,share=on",
        "-object memory-backend-file,id=m,size=1G,mem-path=/m,share=on,readonly=on -object rng-random,id=r",
        "-device vhost-vsock-pci,guest-cid={cid} -device virtio-net-pci,netdev=n",
        "-drive file=a.qcow2,if=virtio -cdrom a.iso -kernel k -append hostfwd=tcp::1-:2",
        "-name -s -append -gdb",
    ],
)
def test_what_each_has_for_itself_or_all_may_share_is_not(line: str) -> None:
    assert refused(line) == []


def test_a_refusal_names_the_option_and_shows_a_line_that_is_right() -> None:
    (reason,) = collisions([QEMU, "-serial", "file:serial.log"]).refusals
    assert reason.message.startswith('"-serial file:serial.log" writes "serial.log"')
    assert "-serial file:{dir}/serial.log" in reason.remedy
    for line in ("-vnc :1", "-gdb tcp::1", "-nic user,hostfwd=tcp::1-:22", "-spice port=1", "-qmp unix:/q,server=on"):
        (reason,) = collisions([QEMU, *line.split()]).refusals
        assert wanted([reason.remedy.partition("for example ")[2]])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("-device virtio-net-pci,mac=52:54:00:00:00:01,netdev=n", "fork-mac"),
        ("-nic user,mac=52:54:00:00:00:01", "fork-mac"),
        ("-net nic,macaddr=52:54:00:00:00:01", "fork-mac"),
        ("-readconfig x.cfg", "fork-unseen"),
    ],
)
def test_what_copies_share_without_harm_is_a_note(line: str, code: str) -> None:
    found = collisions([QEMU, *line.split()])
    assert found.refusals == ()
    assert [reason.code for reason in found.notes] == [code]


def test_a_mac_address_of_its_own_is_no_note() -> None:
    assert collisions([QEMU, "-device", "virtio-net-pci,mac={mac:n}"]).notes == ()


VALUES = ["tcp::1,server=on", "unix:", "file:", "mon:", ":1", "socket,fd", '{"type":1}', "user,hostfwd", "", "=", ","]


@given(st.lists(st.sampled_from([*(f"-{name}" for name in sorted(FLAGS | VALUED)), *VALUES]), max_size=10))
def test_any_words_are_read(words: list[str]) -> None:
    found = collisions([QEMU, *words])
    assert all(reason.message.isprintable() and reason.remedy for reason in (*found.refusals, *found.notes))
