"""qmp-shell, as people use it: lines in, what it prints out.  Not for: what the answers should be."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.framework.vm import TestVM
from tests.framework.waiting import TIMEOUT_S
from tests.functional.qmp.serving import socket_path

SHELL = (sys.executable, "-m", "qemu.qmp.qmp_shell")
PROMPT = "(QEMU) "


def typed(vm: TestVM, lines: Sequence[str], *options: str) -> list[str]:
    """Type lines into qmp-shell, one after the other, and return what it prints after each."""
    argv = (*SHELL, *options, str(socket_path(vm)))
    done = subprocess.run(
        argv,
        input="".join(f"{line}\n" for line in lines),
        env=vm.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    banner, *answers = done.stdout.split(PROMPT)
    assert banner.startswith("Welcome to the "), banner
    assert "Connected to QEMU" in banner
    assert len(answers) == len(lines) + 1, done.stdout  # a last prompt at the end of the input
    return [answer.strip() for answer in answers[:-1]]


def asked(vm: TestVM, *lines: str) -> list[Any]:
    """Type lines of QMP and return the answers."""
    return [json.loads(answer) for answer in typed(vm, lines)]


def told(vm: TestVM, *lines: str) -> list[str]:
    """Type lines of the human monitor and return its texts."""
    return [answer.replace("\r\n", "\n") for answer in typed(vm, lines, "-H")]


class Terminal:
    """qmp-shell at a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def type(self, keys: str, until: str) -> str:
        """Press keys; return what the terminal shows of it, as soon as that ends with ``until``."""
        shown = ""
        os.write(self._descriptor, keys.encode())
        while not shown.endswith(until):
            assert select.select([self._descriptor], [], [], TIMEOUT_S)[0], f"no {until!r} after {keys!r}: {shown!r}"
            try:
                data = os.read(self._descriptor, 1 << 16)
            except OSError:  # EIO: the other side has ended
                data = b""
            assert data, f"it ended without {until!r} after {keys!r}: {shown!r}"
            shown += data.decode()
        return shown


@contextmanager
def at_a_terminal(vm: TestVM, *options: str) -> Iterator[Terminal]:
    """Run qmp-shell at a terminal; end it by Ctrl-D."""
    ours, theirs = pty.openpty()
    argv = (*SHELL, *options, str(socket_path(vm)))
    env = {**vm.env, "TERM": "dumb", "INPUTRC": os.devnull}
    with subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as shell:
        os.close(theirs)
        try:
            terminal = Terminal(ours)
            terminal.type("", PROMPT)
            yield terminal
            os.write(ours, b"\x04")
            assert shell.wait(TIMEOUT_S) == 0
        finally:
            shell.kill()
            os.close(ours)
