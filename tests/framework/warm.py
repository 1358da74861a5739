"""Processes of snaptree that begin warm: forked from one that has everything imported.  Not for: what they do.

An interpreter's start and its imports take most of the time of a short command, and of a supervisor's start; the tests
run thousands.  What is forked has words, environment, working directory and standard streams of its own, and the mark
by which it is found and ended (``processes``), as if it were started as ``python -m snaptree``.  Where the interpreter
would see a difference, because it reads the environment at its start (``PYTHONPATH``, ``LC_ALL``), it is started so.
The tests of output, terminals and shells always start it so.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NoReturn

from .processes import MARK

ARGV = (sys.executable, "-m", "snaptree")

_ROOT = Path(__file__).parents[2]
_MARK_ROOM = 256
_MESSAGE_MAX = 128 << 10
_STATUS_BYTES = 16
_STREAMS = (0, 1, 2)


def run(words: Sequence[str], env: Mapping[str, str], cwd: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run ``snaptree WORDS…`` to its end, and until nobody holds its standard output and error any more.

    :raises subprocess.TimeoutExpired: where that takes longer; the process is killed.
    """
    argv = [*ARGV, *words]
    if not _fits(env):
        null = subprocess.DEVNULL
        return subprocess.run(
            argv, env=env, cwd=cwd, stdin=null, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    deadline = time.monotonic() + timeout_s
    said = {}
    with ExitStack() as stack:
        ends = [os.pipe() for _ in range(2)]
        reading = [stack.enter_context(open(read, "rb", buffering=0)) for read, _ in ends]
        with ExitStack() as writing:
            out, err = (writing.enter_context(open(write, "wb", buffering=0)) for _, write in ends)
            process = stack.enter_context(Process(words, env, cwd, out, err))
        for stream in reading:
            said[stream.fileno()] = b""
        poll = select.poll()
        for stream in reading:
            poll.register(stream, select.POLLIN)
        open_ends = len(reading)
        while open_ends:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise subprocess.TimeoutExpired(argv, timeout_s, *said.values())
            for fd, _ in ready:
                data = os.read(fd, 1 << 16)
                said[fd] += data
                if not data:
                    poll.unregister(fd)
                    open_ends -= 1
        status = process.wait(max(0.0, deadline - time.monotonic()))
    return subprocess.CompletedProcess(argv, status, *(data.decode() for data in said.values()))


class Process:
    """A process of snaptree, as ``subprocess.Popen`` would have it; leaving its context kills it.

    :ivar pid: it.
    :ivar returncode: its exit code, or the negative number of the signal that ended it; ``None`` until that is seen.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: Path, out: IO[Any], err: IO[Any]) -> None:
        """Start ``snaptree WORDS…``; its standard input is empty."""
        self.returncode: int | None = None
        self._cold: subprocess.Popen[bytes] | None = None
        self._status = -1
        if not _fits(env):
            self._cold = subprocess.Popen(
                [*ARGV, *words], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
            self.pid = self._cold.pid
            return
        self._status, write = os.pipe()
        try:
            message = json.dumps({"words": list(words), "env": dict(env), "cwd": str(cwd)}).encode()
            assert len(message) < _MESSAGE_MAX, "too many words"
            with open(os.devnull, "rb") as nothing:
                socket.send_fds(_mother(), [message], [nothing.fileno(), out.fileno(), err.fileno(), write])
        finally:
            os.close(write)
        self.pid = self._read()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.wait(60)
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def poll(self) -> int | None:
        """Return how it ended; ``None`` while it runs."""
        if self.returncode is None and self._cold is not None:
            self.returncode = self._cold.poll()
        if self.returncode is None and self._cold is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._read()
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        """Wait until it has ended; return how.

        :raises subprocess.TimeoutExpired: where it doesn't in time.
        """
        if self.returncode is None and self._cold is not None:
            self.returncode = self._cold.wait(timeout_s)
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout_s)[0]:
                raise subprocess.TimeoutExpired(ARGV, timeout_s)
            self.returncode = self._read()
        return self.returncode

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _read(self) -> int:
        line = os.read(self._status, _STATUS_BYTES)
        assert line, "the process that forks the others has ended"
        return int(line)


def _fits(env: Mapping[str, str]) -> bool:
    """Say whether an interpreter that was started with this environment would be the one that we have."""
    return _of_interpreter(env) == _of_interpreter(_env())


def _of_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(("PYTHON", "LC_", "LANG"))}


def _env() -> dict[str, str]:
    # The mark's value is overwritten in a fork's memory, where /proc shows it.  A second thread, of numpy's, would not
    # be in the fork.
    return {**os.environ, "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", MARK: "-" * _MARK_ROOM}


@functools.cache
def _mother() -> socket.socket:
    """Start the process that forks the others; it ends with us."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        argv = [sys.executable, "-m", __name__, str(its.fileno())]
        process = subprocess.Popen(argv, env=_env(), cwd=_ROOT, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()])

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# In the process that forks, and in its forks


def main() -> None:
    """Import everything, and fork for everyone who asks; be snaptree in the fork."""
    import snaptree  # noqa: PLC0415  only here

    sys.path.pop(0)  # python -m has put our folder there
    for module in pkgutil.walk_packages(snaptree.__path__, "snaptree."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(Exception):  # a fork that needs it fails as it should
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = [str(Path(snaptree.__path__[0]) / "__main__.py"), *words]
    try:
        importlib.import_module("snaptree.cli.main").entry()
    except SystemExit as exit:
        _leave(int(exit.code or 0))


def _leave(code: int) -> NoReturn:
    """End as an interpreter does, but leave all that was imported as it is.

    To take it down would write to every page that the fork shares.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(control: socket.socket) -> list[str]:
    """Fork for everyone who asks; return in the fork only, with its words."""
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                pid, status = running.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(status, code)
                os.close(status)
                continue
            data, (*streams, status), _, _ = _received(control)
            pid = os.fork()
            if pid == 0:
                request = json.loads(data)
                _become(request["env"], request["cwd"], streams)
                words: list[str] = request["words"]
                return words
            for stream in streams:
                os.close(stream)
            _tell(status, pid)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, status
            poll.register(pidfd, select.POLLIN)


def _received(control: socket.socket) -> tuple[bytes, list[int], int, object]:
    found = socket.recv_fds(control, _MESSAGE_MAX, len(_STREAMS) + 1)
    if not found[0]:
        os._exit(0)
    return found


def _tell(status: int, number: int) -> None:
    os.write(status, f"{number}\n".encode().ljust(_STATUS_BYTES))


def _become(env: dict[str, str], cwd: str, streams: list[int]) -> None:
    for stream, number in zip(streams, _STREAMS, strict=True):
        os.dup2(stream, number)
    os.closerange(len(_STREAMS), os.sysconf("SC_OPEN_MAX"))
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    mark = env.get(MARK, "").encode()
    assert len(mark) < _MARK_ROOM
    ctypes.memmove(libc.getenv(MARK.encode()), mark.ljust(_MARK_ROOM, b"\0"), _MARK_ROOM)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    importlib.reload(importlib.import_module("snaptree.engine.trace"))  # it looks at the environment at its import


if __name__ == "__main__":
    main()
