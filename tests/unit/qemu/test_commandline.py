"""QEMU's command line is read as QEMU reads it; what we add takes nothing away."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.commandline import FLAGS, MONITOR_ID, VALUED, CommandLine, analyse, options, refusals, with_monitor

QEMU = "qemu-system-x86_64"


def look(line: str) -> CommandLine:
    return analyse([QEMU, *shlex.split(line)])


def codes(line: str, *, detach: bool = False) -> list[str]:
    return [reason.code for reason in refusals(look(line), detach)]


def test_no_option_both_takes_an_argument_and_takes_none() -> None:
    assert not FLAGS & VALUED


def test_an_option_s_argument_is_the_next_word_whatever_it_is() -> None:
    found = look("-append -S -name -loadvm -kernel -daemonize disk.qcow2 -m 1G")
    assert (found.paused, found.loadvm, found.daemonize) == (False, None, False)
    assert [option.written for option in options([QEMU, "-append", "-S", "x", "-m", "1G"])] == ["-append -S", "-m 1G"]


def test_a_flag_takes_no_argument() -> None:
    assert look("-S -loadvm x").loadvm == "x"
    assert look("-nographic -S").paused


def test_two_dashes_are_as_good_as_one() -> None:
    found = look("--S --incoming defer --snapshot")
    assert (found.paused, found.incoming, found.discards) == (True, "defer", ("--snapshot",))


def test_other_words_are_disk_images() -> None:
    assert look("a.qcow2 S -S b.qcow2").paused
    assert not look("S daemonize").paused


def test_an_unknown_option_takes_the_next_word_unless_that_is_an_option() -> None:
    assert [(o.name, o.value) for o in options([QEMU, "-new", "x", "-newer", "-S", "-newest"])] == [
        ("new", "x"),
        ("newer", None),
        ("S", None),
        ("newest", None),
    ]


def test_the_last_of_several_counts() -> None:
    assert look("-incoming defer -incoming tcp:0:4444").incoming == "tcp:0:4444"


def test_a_line_that_qemu_will_refuse_is_still_read() -> None:
    assert analyse([]) == CommandLine()
    assert analyse([QEMU, "-m"]).program == QEMU
    assert analyse([QEMU, "--", "-", "", "-S"]).paused


@given(st.lists(st.sampled_from([*sorted(FLAGS), *sorted(VALUED), "x=y,,z", "{", '{"a":1}', "stdio", "", "-", "--S"])))
def test_any_words_are_read_and_every_word_belongs_to_one_option_or_image(words: list[str]) -> None:
    argv = [QEMU, *(f"-{word}" if word in FLAGS | VALUED else word for word in words)]
    analyse(argv)
    written = [word for option in options(argv) for word in ([option.written] if option.value is None else [])]
    assert all(word in argv for word in written)
    assert with_monitor(argv, 3)[: len(argv)] == argv


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("-no-shutdown", {"no_shutdown": True}),
        ("-action reboot=shutdown,shutdown=pause", {"no_shutdown": True, "no_reboot": True}),
        ("-no-reboot", {"no_reboot": True}),
        ("-action panic=pause", {"no_shutdown": False, "no_reboot": False}),
        ("-icount shift=7,rr=record,rrfile=x", {"icount": "shift=7,rr=record,rrfile=x"}),
        ("-pidfile /run/q.pid", {"pidfile": "/run/q.pid"}),
        ("-runas nobody -chroot /c", {"runas": "nobody", "chroot": "/c"}),
        ("-run-with chroot=/c,,d,user=nobody", {"runas": "nobody", "chroot": "/c,d"}),
        ("-chardev null,id=a -chardev socket,id=b,path=p,,id=x", {"chardev_ids": frozenset({"a", "b"})}),
    ],
)
def test_what_matters_is_found(line: str, values: dict[str, object]) -> None:
    found = look(line)
    assert {name: getattr(found, name) for name in values} == values


# -- refusals


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m 1G -nographic -S -incoming defer -no-shutdown -icount 3 -pidfile p -name -loadvm", []),
        ("-loadvm x", ["loadvm"]),
        ("-snapshot", ["writes-discarded"]),
        ("-drive file=a,snapshot=on", ["writes-discarded"]),
        ("-drive snapshot=yes,file=a", ["writes-discarded"]),
        ("-drive file=a,snapshot", ["writes-discarded"]),
        ("-set drive.a.snapshot=on", ["writes-discarded"]),
        ("-drive file=a,snapshot=off -set device.a.snapshot=on -hda snapshot=on", []),
        ("-drive file=a,,snapshot=on", []),
        ("-daemonize", ["daemonize"]),
        ("--preconfig", ["preconfig"]),
        ("-help", ["prints-and-ends"]),
        ("-h", ["prints-and-ends"]),
        ("--version", ["prints-and-ends"]),
        ("-machine help", ["prints-and-ends"]),
        ("-cpu ?", ["prints-and-ends"]),
        ("-device virtio-blk-pci,help", ["prints-and-ends"]),
        ("-nic model=help", ["prints-and-ends"]),
        ("-drive format=?", ["prints-and-ends"]),
        ("-dump-vmstate f", ["prints-and-ends"]),
        ("-append help -drive file=help -name help -device usb-serial,chardev=help", []),
        ("-loadvm x -snapshot -daemonize", ["loadvm", "writes-discarded", "daemonize"]),
    ],
)
def test_what_would_go_around_us_is_refused_by_name(line: str, expected: list[str]) -> None:
    assert codes(line) == expected


def test_every_refusal_has_a_remedy_and_names_the_option_as_it_was_written() -> None:
    reasons = refusals(look("--loadvm 'a\nb' --snapshot -daemonize -preconfig -version -serial mon:stdio"), True)
    assert len(reasons) == 6
    assert all(reason.remedy and reason.message.isprintable() and reason.device is None for reason in reasons)
    assert '"-serial mon:stdio"' in reasons[-1].message


@pytest.mark.parametrize(
    "option",
    [
        "-serial stdio",
        "-serial mon:stdio",
        "-parallel stdio",
        "-monitor stdio",
        "-qmp stdio",
        "-qmp-pretty stdio",
        "-debugcon stdio",
        "-gdb stdio",
        "-qtest stdio",
        "-chardev stdio,id=a",
        "-chardev id=a,backend=stdio,mux=on",
        "-display curses",
        "-display type=curses",
        '-display {"type":"curses"}',
        "-curses",
        "-nographic",
    ],
)
def test_what_uses_the_terminal_is_refused_with_detach_only(option: str) -> None:
    command = analyse([QEMU, *option.split(" ")])
    assert command.stdio == (option,)
    assert refusals(command, False) == ()
    assert [reason.code for reason in refusals(command, True)] == ["stdio-detached"]


@pytest.mark.parametrize(
    "line",
    [
        "-nographic -serial null -monitor none",
        "-nographic -serial mon:tcp::4444,server=on",
        "-nographic -nodefaults",
        "-serial file:stdio -chardev file,id=stdio,path=stdio -display none -monitor null -name stdio",
    ],
)
def test_what_only_looks_like_the_terminal_is_not_refused(line: str) -> None:
    assert codes(line, detach=True) == []


# -- what we add


def added(line: str, fd: int = 7) -> list[str]:
    argv = [QEMU, *shlex.split(line)]
    complete = with_monitor(argv, fd)
    assert complete[: len(argv)] == argv
    return complete[len(argv) :]


def ours(id: str = MONITOR_ID) -> list[str]:
    return ["-chardev", f"socket,id={id},fd=7,server=on,wait=off", "-mon", f"chardev={id},mode=control"]


def test_a_monitor_is_added_and_the_vm_starts_paused() -> None:
    assert added("-nodefaults") == [*ours(), "-S"]


def test_a_vm_that_starts_paused_or_waits_for_a_migration_gets_no_second_s() -> None:
    assert added("-nodefaults -S") == ours()
    assert added("-nodefaults -incoming defer") == ours()


def test_an_id_that_the_user_has_taken_is_avoided() -> None:
    assert added(f"-nodefaults -S -chardev null,id={MONITOR_ID}") == ours(f"{MONITOR_ID}-2")
    assert added(f"-nodefaults -S -chardev null,id={MONITOR_ID} -chardev id={MONITOR_ID}-2,backend=null") == ours(
        f"{MONITOR_ID}-3"
    )


@pytest.mark.parametrize(
    ("line", "human"),
    [
        ("", ["-monitor", "vc:80Cx24C"]),
        ("-display none -serial null", ["-monitor", "vc:80Cx24C"]),
        ("-nographic", ["-serial", "mon:stdio"]),
        ("-nographic -serial null", ["-monitor", "stdio"]),
        ("-nographic -device isa-serial,chardev=a", ["-monitor", "stdio"]),
        ('-nographic -device {"driver":"isa-serial"}', ["-monitor", "stdio"]),
        ("-nographic -global isa-serial.wakeup=1", ["-monitor", "stdio"]),
        ("-nographic -global driver=isa-serial,property=wakeup,value=1", ["-monitor", "stdio"]),
        ("-nographic -serial mon:stdio", []),
        ("-nographic -monitor none", []),
        ("-monitor stdio", []),
        ("-qmp unix:q,server=on", []),
        ("-qmp-pretty tcp::1", []),
        ("-mon chardev=a", []),
        ("-parallel mon:null", []),
        ("-nodefaults -nographic", []),
    ],
)
def test_the_human_monitor_that_qemu_makes_by_default_stays(line: str, human: list[str]) -> None:
    argv = [QEMU, "-S", *line.split()]
    assert with_monitor(argv, 7) == [*argv, *ours(), *human]
