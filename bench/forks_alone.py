"""QEMU alone, with the command line of a fork: what no fork can be faster than.  Not for: snaptree's own part."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import time
from pathlib import Path

from .rig import Rig


def start_ms(made: Rig, name: str, rounds: int) -> float:
    """Stop a fork, and return the median of milliseconds until its QEMU, started by nobody's help, answers a command.

    The VM state is not among it: QEMU waits for that.
    """
    home = made.folder / "home" / "vms" / name
    pid = json.loads((home / "running.json").read_text())["qemu_pid"]
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    made.snaptree("stop", name)
    return statistics.median(_once(argv, made.folder) for _ in range(rounds))


def _once(argv: list[str], folder: Path) -> float:
    path = str(folder / "alone.sock")
    ram = os.memfd_create("bench")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen(1)
        text = "\0".join(argv)
        text = re.sub(r"(?<=mem-path=/proc/self/fd/)[0-9]+", str(ram), text)
        text = re.sub(r"(?<=,fd=)[0-9]+(?=,server=on)", str(listener.fileno()), text)
        start = time.perf_counter()
        with subprocess.Popen(text.split("\0"), cwd=folder, pass_fds=(ram, listener.fileno())) as qemu:
            client.connect(path)
            answers = client.makefile("rb")
            answers.readline()
            client.sendall(b'{"execute": "qmp_capabilities"}')
            assert b"return" in answers.readline()
            took = (time.perf_counter() - start) * 1000
            qemu.kill()
            answers.close()
    os.close(ram)
    Path(path).unlink()
    return took
