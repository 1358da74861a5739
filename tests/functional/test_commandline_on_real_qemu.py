"""What we add to a command line works on real QEMU beside anything that the user chose, and takes nothing away."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.framework.qemus import QEMU
from tests.framework.waiting import TIMEOUT_S

from snaptree.cli.client import Client
from snaptree.qemu.commandline import FLAGS, MONITOR_ID, VALUED, with_monitor

PC = ["-M", "pc", "-accel", "tcg", "-m", "64"]
QUIET = [*PC, "-display", "none"]
VC = {"serial0": "vc", "parallel0": "vc"}


@contextmanager
def started(qemu: QEMU, words: list[str], path: Path) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """Start QEMU as the supervisor does: with a listening socket that it inherits, and connect at once."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        argv = with_monitor([str(qemu.system), *words], listener.fileno())
        process = subprocess.Popen(
            argv,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    with process:
        try:
            with Client.connect(path, TIMEOUT_S) as client:
                yield client, process
        finally:
            process.kill()


def chardevs(client: Client) -> dict[str, str]:
    """Return each character device's label and kind, without ours."""
    found = {item["label"]: item["filename"].partition(":")[0] for item in client.execute("query-chardev")}
    del found[max(label for label in found if label.startswith(MONITOR_ID))]
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (QUIET, {**VC, "compat_monitor0": "vc"}),
        ([*QUIET, "-monitor", "stdio"], {**VC, "compat_monitor0": "stdio"}),
        ([*QUIET, "-nodefaults"], {}),
        ([*QUIET, "-chardev", "null,id=snaptree-qmp"], {**VC, "compat_monitor0": "vc", "snaptree-qmp": "null"}),
        ([*PC, "-nographic"], {"serial0": "mux", "serial0-base": "stdio", "parallel0": "null"}),
        ([*PC, "-nographic", "-serial", "null"], {"serial0": "null", "compat_monitor0": "stdio", "parallel0": "null"}),
        ([*PC, "-nographic", "-monitor", "none"], {"serial0": "stdio", "parallel0": "null"}),
        (["-machine", "none", "-nographic"], {"serial0": "mux", "serial0-base": "stdio"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_qemu_starts_paused_and_has_the_devices_that_it_would_have_without_us(
    qemu: QEMU, tmp_path: Path, words: list[str], expected: dict[str, str]
) -> None:
    with started(qemu, words, tmp_path / "q.sock") as (client, _):
        assert client.execute("query-status")["status"] == "prelaunch"
        assert chardevs(client) == expected


def test_a_qmp_socket_of_the_user_stays_the_user_s(qemu: QEMU, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.sock"
    with started(qemu, [*QUIET, "-qmp", f"unix:{theirs},server=on,wait=off"], tmp_path / "q.sock") as (client, _):
        assert chardevs(client).keys() == {*VC, "compat_monitor0"}
        with Client.connect(theirs, TIMEOUT_S) as other:
            assert other.execute("query-status")["running"] is False


def test_a_configuration_file_works_beside_ours(qemu: QEMU, tmp_path: Path) -> None:
    config = tmp_path / "q.cfg"
    config.write_text('[machine]\n  type = "none"\n[chardev "mine"]\n  backend = "null"\n')
    words = ["-readconfig", str(config), "-nodefaults", "-display", "none"]
    with started(qemu, words, tmp_path / "q.sock") as (client, _):
        assert chardevs(client) == {"mine": "null"}


def test_a_vm_that_waits_for_a_migration_is_left_waiting(qemu: QEMU, tmp_path: Path) -> None:
    with started(qemu, [*QUIET, "-incoming", "defer"], tmp_path / "q.sock") as (client, _):
        assert client.execute("query-status")["status"] == "inmigrate"


@pytest.mark.parametrize(
    ("words", "typed"),
    [(["-nographic"], b"\x01cinfo version\n"), (["-nographic", "-serial", "null"], b"info version\n")],
    ids=["multiplexed", "alone"],
)
def test_the_human_monitor_is_on_the_terminal_as_without_us(
    qemu: QEMU, tmp_path: Path, words: list[str], typed: bytes
) -> None:
    with started(qemu, [*PC, *words], tmp_path / "q.sock") as (client, process):
        client.execute("query-status")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(typed)
        process.stdin.flush()
        said = b""
        while f"\n{qemu.version}".encode() not in said:
            assert select.select([process.stdout], [], [], TIMEOUT_S)[0], said
            data = os.read(process.stdout.fileno(), 1 << 16)
            assert data, said
            said += data


def test_qemu_takes_arguments_for_the_options_that_we_know(qemu: QEMU) -> None:
    # "-OPTION -first -second": QEMU complains about the first of the two words that it takes for an option.
    unknown = set()
    for name in sorted(FLAGS | VALUED):
        run = subprocess.run(
            [qemu.system, f"-{name}", "-first", "-second"], capture_output=True, text=True, check=False
        )
        if f"-{name}: invalid option" in run.stderr:
            unknown.add(name)
        else:
            assert ("-second: invalid option" in run.stderr) == (name in VALUED), (name, run.stderr)
    known_elsewhere = {
        "7.2": {"curses", "jitdump", "perfmap", "run-with", "shim"},
        "10": {
            "async-teardown",
            "audio-help",
            "chroot",
            "curses",
            "no-acpi",
            "no-hpet",
            "portrait",
            "rotate",
            "runas",
            "singlestep",
        },
    }
    assert unknown == known_elsewhere[qemu.version]


def test_qemu_has_no_option_that_we_do_not_know(qemu: QEMU) -> None:
    text = subprocess.run([qemu.system, "-help"], capture_output=True, text=True, check=True).stdout
    # "-fda/-fdb file", "-h or -help", "--preconfig"
    words = [word for line in text.splitlines() if line.startswith("-") for word in line.split(" ", 1)[0].split("/")]
    assert {word.lstrip("-") for word in words} - FLAGS - VALUED == set()
