"""Running a command for forks of snapshots, several at once, each fork removed afterwards.  Not for: which snapshots.

Each snapshot has a worker, a process forked from this one, so that no thread is about where supervisors are forked.
A worker starts the fork, runs the command in a process group of its own, removes the fork, and says how it went.
A request to end (SIGINT, SIGTERM, SIGHUP) ends the command, and the fork is removed all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from ..model.errors import Interrupted, SnaptreeError, UsageError, VMRuns
from ..model.snapshot import SnapshotJSON
from ..places.places import Places, VMPlace
from ..places.signals import undisturbed
from . import output
from .fork import start_forks

PLACEHOLDER = "{vm}"
STEM_MAX = 48
"""Characters of a fork's name before a number: a socket's path has only 107 bytes."""
NAMES_MAX = 1000
GRACE_S = 10.0
"""For a command that was asked to end."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended for a fork of one snapshot.

    :param exit_code: 128 and the signal's number where a signal ended it; ``None`` where it did not run.
    :param duration_ms: of the command alone; ``fork_ms`` of the fork's start.
    :param kept: the fork is still there.
    :param error: why there was no fork, or why it could not be removed.
    """

    snapshot: str
    id: str
    fork: str
    exit_code: int | None = None
    duration_ms: float = 0.0
    fork_ms: float = 0.0
    kept: bool = False
    error: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what --json prints."""
        return asdict(self)


def check_words(words: Sequence[str] | None, command: str) -> list[str]:
    """Return the command's words, if it can be run at all.

    :raises UsageError: where there are none, or there is no such program.
    """
    if not words:
        raise UsageError(
            "No command is given.",
            f"It stands after a double hyphen, with {PLACEHOLDER} for the fork's name: {command} -- ./test.sh {{vm}}",
        )
    import shutil  # noqa: PLC0415

    if PLACEHOLDER not in words[0] and shutil.which(words[0]) is None:
        raise UsageError(f"There is no program {words[0]!r}.", "No shell is between; `sh -c 'WORDS'` is one.")
    return list(words)


def fork_names(vm: str, snapshot: str) -> Iterator[str]:
    """Yield names for a fork of a snapshot, most wanted first, all of them valid."""
    stem = re.sub(r"[^a-z0-9]+", "-", f"{vm}-each-{snapshot}".lower())[:STEM_MAX].strip("-")
    yield stem
    for number in range(2, NAMES_MAX):
        yield f"{stem}-{number}"


def run_for_each(
    source: VMPlace, snapshots: Sequence[SnapshotJSON], words: Sequence[str], *, jobs: int, keep_failed: bool = False
) -> list[Outcome]:
    """Run a command for a fork of each snapshot, at most ``jobs`` at once; return the outcomes in the given order.

    Effects on success: no fork is left but those of failed commands with ``keep_failed``.

    :param words: the command; ``{vm}`` stands in them for the fork's name.
    :raises Interrupted: where the user interrupted it; the commands have ended and their forks are removed.
    """
    if source.state().state != "supervised" and any(snapshot["memory"] == "pages" for snapshot in snapshots):
        from ..server import forking  # noqa: PLC0415  asyncio, and numpy: once here, and not in every worker

        forking.preload()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    waiting = list(enumerate(snapshots))[::-1]
    running: dict[int, tuple[int, int, bytearray]] = {}  # by the pipe's descriptor: position, pid, what it said
    found: dict[int, Outcome] = {}
    with _ending_by(_interrupt):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    position, snapshot = waiting.pop()
                    work = partial(_work, source, snapshot, words, keep_failed=keep_failed)
                    pid, pipe = _begin(work, running)
                    running[pipe] = (position, pid, bytearray())
                for pipe in _readable(running):
                    data = os.read(pipe, 1 << 16)
                    running[pipe][2].extend(data)
                    if not data:
                        position, pid, said = running.pop(pipe)
                        os.close(pipe)
                        os.waitpid(pid, 0)
                        found[position] = _outcome(snapshots[position], bytes(said))
        except KeyboardInterrupt:
            _end_workers(running)
            raise Interrupted("Interrupted; the commands have ended and their forks are removed.") from None
    return [found[position] for position in range(len(snapshots))]


def remove(place: VMPlace) -> None:
    """End a fork, and remove all of it.

    :raises SnaptreeError: where that can't be, for example because forks stand on it.
    """
    from ..engine import offline  # noqa: PLC0415  SQLite
    from .stop import quit_vm  # noqa: PLC0415

    if not place.exists():
        return
    offline.check_removable(place)
    state = place.state()
    if state.state == "supervised":
        quit_vm(place)
    elif state.qemu_pid is not None:
        _kill(state.qemu_pid)
    offline.remove_fork(place)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)


def _begin(work: Callable[[], Outcome], running: Iterable[int]) -> tuple[int, int]:
    """Start a worker; return its pid, and a pipe that says the outcome."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (read, *running):
            os.close(fd)
        _be_worker(work, write)
    os.close(write)
    return pid, read


def _be_worker(work: Callable[[], Outcome], write: int) -> NoReturn:
    status = 1
    try:
        with contextlib.suppress(OSError):  # nobody may be there any more to be told
            os.write(write, json.dumps(work().to_json()).encode())
        status = 0
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            import traceback  # noqa: PLC0415

            traceback.print_exc()
    finally:
        os._exit(status)


def _readable(pipes: Iterable[int]) -> list[int]:
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, select.POLLIN)
    return [fd for fd, _ in poll.poll()]


def _outcome(snapshot: SnapshotJSON, said: bytes) -> Outcome:
    if said:
        return Outcome(**json.loads(said))
    error = {"code": "failed", "message": "The process that ran the command ended.", "remedy": ""}
    return Outcome(snapshot["name"], str(snapshot["id"]), "", error=error)


def _end_workers(running: dict[int, tuple[int, int, bytearray]]) -> None:
    for _, pid, _ in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pipe, (_, pid, _) in running.items():
        os.waitpid(pid, 0)
        os.close(pipe)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once; what is asked again changes nothing."""
    for name in _SIGNALS:
        signal.signal(name, lambda number, frame: None)
    raise KeyboardInterrupt


@contextmanager
def _ending_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _work(source: VMPlace, snapshot: SnapshotJSON, words: Sequence[str], *, keep_failed: bool) -> Outcome:
    """Start the fork, run the command, remove the fork; the worker's whole life."""
    name, id = snapshot["name"], str(snapshot["id"])
    start = time.perf_counter()
    try:
        place = _fork(source, snapshot)
    except SnaptreeError as error:
        return Outcome(name, id, "", error=_told(error))
    fork_ms = (time.perf_counter() - start) * 1000
    start = time.perf_counter()
    code: int | None = None
    kept, failure = False, None
    try:
        code = _run([word.replace(PLACEHOLDER, place.name) for word in words], place.name, name)
        kept = keep_failed and code != 0
    except OSError as error:
        failure = _told(SnaptreeError(f"{words[0]} cannot be run: {error.strerror}."))
    finally:
        duration_ms = (time.perf_counter() - start) * 1000
        if not kept:
            try:
                with undisturbed():
                    remove(place)
            except SnaptreeError as error:
                kept, failure = place.exists(), _told(error)
                output.note(f"snaptree: {place.name} could not be removed: {error}")
    return Outcome(name, id, place.name, code, duration_ms, fork_ms, kept, failure)


def _told(error: SnaptreeError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "remedy": error.remedy}


def _fork(source: VMPlace, snapshot: SnapshotJSON) -> VMPlace:
    """Start a fork under the first name that is free.

    :raises SnaptreeError: where that can't be; nothing is left of it.
    :raises KeyboardInterrupt: where we are asked to end; nothing is left of it.
    """
    names = fork_names(source.name, snapshot["name"])
    while True:
        place = next(p for name in names if not (p := Places.from_environ().vm(name)).exists())
        begun = False
        try:
            # A fork that has begun to start can only be removed once it has.
            with undisturbed():
                start_forks(source, [place], {"id": str(snapshot["id"])})
                begun = True
        except VMRuns:
            if not place.exists():
                raise
        except KeyboardInterrupt:
            if begun:
                remove(place)
            raise
        else:
            return place


def _run(words: Sequence[str], vm: str, snapshot: str) -> int:
    """Run a command to its end; it is ended with all its process group where we are asked to end."""
    env = {**os.environ, "SNAPTREE_VM": vm, "SNAPTREE_SNAPSHOT": snapshot}
    said = sys.stderr.fileno() if sys.stderr is not None else subprocess.DEVNULL
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env, process_group=0)
    try:
        status = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return status if status >= 0 else 128 - status
