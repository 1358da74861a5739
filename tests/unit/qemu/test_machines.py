"""What a program says about itself is asked once, and asked again when that may have changed."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from tests.framework.waiting import wait_until

from snaptree.model.errors import QEMUStartFailed
from snaptree.qemu import machines

GREETING = {"QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 2}}}}
ANSWERS = [
    {"id": "qmp_capabilities", "return": {}},
    {"event": "X"},
    {
        "id": "query-machines",
        "return": [
            {"name": "board-1", "alias": "board", "default-ram-id": "b.ram", "is-default": True},
            {"name": "odd"},
        ],
    },
    {"id": "query-commands", "return": [{"name": f"snapshot-{verb}"} for verb in ("save", "load", "delete")]},
    {"id": "query-migrate-capabilities", "return": [{"capability": "x-ignore-shared", "state": False}]},
    {"id": "query-memory-size-summary", "return": {"base-memory": 134217728}},
]
LINES = "\n".join(json.dumps(line) for line in (GREETING, *ANSWERS))


class Program:
    """A script that counts its calls."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "qemu"
        self.cache = directory / "emulators.json"
        (directory / "answers").write_text(LINES)
        self.write("cat answers")

    def write(self, last: str) -> None:
        self.path.write_text(f'#!/bin/sh\necho "$@" >>calls\n{last}\n')
        self.path.chmod(stat.S_IRWXU)

    def ask(self, machine: str | None = None, *, ram: bool = False) -> machines.Emulator:
        return machines.ask("./qemu", self.directory, self.cache, machine=machine, ram=ram)

    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_program_is_asked_once(program: Program) -> None:
    found = program.ask()
    assert found == machines.Emulator(
        "9.1.2", "board-1", {"board-1": "b.ram", "board": "b.ram", "odd": ""}, {}, True, True
    )
    assert program.ask("board") == program.ask() == found
    assert program.calls() == ["-machine none -nodefaults -display none -S -qmp stdio"]


def test_a_program_that_was_changed_is_asked_again(program: Program) -> None:
    program.ask()
    program.write("cat answers # newer")
    program.ask()
    os.utime(program.path, ns=(1, 1))
    program.ask()
    assert len(program.calls()) == 3


def test_a_machine_type_that_is_not_known_is_asked_for(program: Program) -> None:
    program.ask()
    assert "new" not in program.ask("new").ram_ids
    assert len(program.calls()) == 2


def test_ram_without_m_is_asked_for_once_and_for_each_machine_type(program: Program) -> None:
    assert program.ask(ram=True).ram_bytes == {"board-1": 134217728}
    assert program.ask("odd", ram=True).ram_bytes == {"board-1": 134217728, "odd": 134217728}
    program.ask("odd", ram=True)
    program.ask(ram=True)
    assert [call.partition(" -nodefaults")[0] for call in program.calls()] == [
        "-machine none",
        "-machine board-1",
        "-machine odd",
    ]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"PATH": 1}', '{"PATH": {"format": 1}}', "\xff"])
def test_a_cache_that_cannot_be_read_is_made_anew(program: Program, content: str) -> None:
    found = program.ask()
    program.cache.write_text(content.replace("PATH", str(program.path)))
    assert program.ask() == found
    assert program.ask() == found
    assert len(program.calls()) == 2


def test_without_a_place_for_the_cache_the_program_is_asked_each_time(program: Program) -> None:
    program.cache = Path("/proc/emulators.json")
    assert program.ask() == program.ask()
    assert len(program.calls()) == 2


@pytest.mark.parametrize(
    "last",
    ["exit 0", "echo; echo '[]'; echo '{\"QMP\": 1}'; exit 1", "head -n 2 answers", "cat answers | tail -n +2"],
)
def test_a_program_that_answers_otherwise_is_an_error_with_its_words(program: Program, last: str) -> None:
    program.write(f"echo first >&2; echo 'no such option' >&2; {last}")
    with pytest.raises(QEMUStartFailed, match=r'"\./qemu" was asked about its machine types.*"no such option"'):
        program.ask()
    assert not program.cache.exists()


def test_a_program_that_says_nothing_is_ended_with_its_children(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "TIMEOUT_S", 0.2)
    (program.directory / "held").touch()
    program.write("exec 3>held; (read x <fifo; cat) & wait")
    os.mkfifo(program.directory / "fifo")
    with pytest.raises(QEMUStartFailed, match="said nothing"):
        program.ask()

    def nobody_reads() -> bool:
        try:
            os.close(os.open(program.directory / "fifo", os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            return error.errno == errno.ENXIO
        return False

    wait_until(nobody_reads, "the child's end: it was killed, and takes a moment to go")


@pytest.mark.parametrize("name", ["qemu-nonesuch", "./qemu-nonesuch", "/qemu-nonesuch", "./answers"])
def test_a_program_that_is_not_there_is_an_error(program: Program, name: str) -> None:
    with pytest.raises(QEMUStartFailed, match="There is no program"):
        machines.ask(name, program.directory, program.cache)
