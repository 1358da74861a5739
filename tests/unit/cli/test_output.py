"""Standard output in every surrounding: pipes that close, full disks, terminals, old encodings."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping

import pytest

from snaptree.cli import output, progress


def run(
    words: list[str], *, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snaptree", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], ["vms", "--json"], ["completion", "bash"], ["lst", "--json"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(words, stdout=writer)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == (2 if "lst" in words else 0)


def test_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = run(["vms", "--json"], stdout=full.fileno())
    assert done.returncode == 1
    assert "Standard output cannot be written: No space left on device." in done.stderr


def on_terminal(words: list[str], env: Mapping[str, str]) -> str:
    ours, theirs = pty.openpty()
    try:
        done = run(words, stdout=theirs, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        os.write(theirs, b"END")
        text = b""
        while not text.endswith(b"END"):
            text += os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    return text.decode()


@pytest.fixture
def one_vm(home: os.PathLike[str]) -> None:
    os.makedirs(os.path.join(home, "vms", "dev"))


@pytest.mark.usefixtures("one_vm")
def test_a_terminal_gets_colours_and_no_color_takes_them_away() -> None:
    assert "\x1b[" in on_terminal(["vms"], {"TERM": "xterm", "NO_COLOR": ""})
    for env in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb", "NO_COLOR": ""}):
        plain = on_terminal(["vms"], env)
        assert "\x1b" not in plain
        assert "stopped" in plain


@pytest.mark.usefixtures("one_vm")
def test_a_pipe_gets_no_escapes() -> None:
    done = run(["vms"], env={"TERM": "xterm", "FORCE_COLOR": "1"})
    assert done.stdout.splitlines()[1].split() == ["dev", "stopped", "-", "-", "-"]


def test_an_encoding_that_lacks_a_character_gets_its_number(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from snaptree.cli import output; output.write('a…○\\n'); print(output.tick(good=True))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "latin-1"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert capfd.readouterr().out == "a\\u2026\\u25cb\nyes\n"


def test_no_standard_output_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    output.say("nobody hears it")
    output.finish()
    assert not output.is_terminal()


class Terminal:
    """A terminal as standard error, and what was written to it."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.theirs


def test_what_takes_long_shows_a_sign_of_life_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "DELAY_S", 0.001)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("creating s1"):
        seen = os.read(terminal.ours, 1000).decode()
    rest = os.read(terminal.ours, 1000).decode()
    os.close(terminal.ours)
    os.close(terminal.theirs)
    assert "creating s1, 0." in seen
    assert rest.endswith("\r" + " " * (len(seen.strip("\r"))) + "\r")


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "DELAY_S", 1000)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("creating s1"):
        pass
    os.write(terminal.theirs, b"END")
    assert os.read(terminal.ours, 1000) == b"END"
    os.close(terminal.ours)
    os.close(terminal.theirs)


def test_no_sign_of_life_goes_into_a_pipe(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 1e-9)
    with progress.shown("creating s1"):
        pass
    assert capfd.readouterr().err == ""
