import pytest

from snaptree.qemu.commandline import analyse, options, refusals, with_monitor


def test_an_argument_that_looks_like_an_option_is_an_argument() -> None:
    found = list(options(["qemu", "-append", "-S", "--name", "-snapshot", "disk.img", "-m", "1G"]))
    assert [(o.name, o.argument) for o in found] == [
        ("append", "-S"),
        ("name", "-snapshot"),
        ("", "disk.img"),
        ("m", "1G"),
    ]
    command = analyse(["qemu", "-append", "-S", "-name", "-snapshot"])
    assert not command.paused
    assert refusals(command, True) == ()


@pytest.mark.parametrize("spelling", ["-{}", "--{}"])
@pytest.mark.parametrize("name", ["loadvm", "snapshot", "daemonize", "preconfig", "version", "h"])
def test_what_would_go_around_us_is_refused_by_name_with_what_to_use(name: str, spelling: str) -> None:
    option = spelling.format(name)
    (reason,) = refusals(analyse(["qemu", "-m", "64", option, *(["x"] if name == "loadvm" else [])]), False)
    assert option in reason.message
    assert reason.remedy


@pytest.mark.parametrize(
    "words",
    [
        ["-nographic"],
        ["-serial", "stdio"],
        ["-serial", "mon:stdio"],
        ["-monitor", "stdio"],
        ["-qmp", "stdio"],
        ["-chardev", "stdio,id=c"],
        ["-chardev", "stdio,mux=on,id=c,signal=off"],
        ["-display", "curses"],
    ],
)
def test_a_terminal_is_refused_where_there_is_none(words: list[str]) -> None:
    command = analyse(["qemu", *words])
    assert refusals(command, False) == ()
    (reason,) = refusals(command, True)
    assert words[0] in reason.message


@pytest.mark.parametrize("words", [["-serial", "file:stdio"], ["-nographic", "-nodefaults"], ["-name", "stdio"]])
def test_what_uses_no_terminal_may_be_detached(words: list[str]) -> None:
    assert refusals(analyse(["qemu", *words]), True) == ()


def test_only_what_is_missing_is_added_and_at_the_end() -> None:
    argv = ["qemu", "-m", "64"]
    added = with_monitor(argv, 7)[3:]
    assert added == [
        "-chardev",
        "socket,id=snaptree-qmp,fd=7,server=on,wait=off",
        "-mon",
        "chardev=snaptree-qmp,mode=control",
        "-S",
    ]
    for own in (["-S"], ["-incoming", "defer"]):
        assert with_monitor([*argv, *own], 7)[-1] == "chardev=snaptree-qmp,mode=control"


def test_an_id_of_the_users_is_left_to_the_user() -> None:
    line = with_monitor(["qemu", "-chardev", "null,id=snaptree-qmp"], 3)
    assert "chardev=snaptree-qmp-,mode=control" in line

