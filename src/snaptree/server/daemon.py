"""Running a supervisor: in the foreground, or detached from the caller.  Not for: what a supervisor does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from ..model.errors import Interrupted, NotReady, SnaptreeError, from_code
from ..model.reason import Reason
from .exchange import End, Ready

Work = Callable[[Callable[[Ready], None]], Coroutine[Any, Any, End]]


def foreground(work: Work, ready: Callable[[Ready], None]) -> End:
    """Supervise in this process until the end; the terminal is left as it was found.

    :param ready: called once the VM is served.
    :raises SnaptreeError: where it could not begin.
    :raises Interrupted: where the user interrupted it before it was served.
    """
    terminal = None
    with contextlib.suppress(termios.error, OSError, ValueError):
        terminal = termios.tcgetattr(sys.stdin.fileno())
    try:
        return asyncio.run(_ending_by_signal(work, ready))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted("Interrupted before the VM was served; QEMU was ended.") from None
    finally:
        if terminal is not None:
            # A QEMU that was killed could not undo what its -nographic did to the terminal.
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, terminal)


def detached(work: Work) -> Ready:
    """Supervise in a process of its own, and return once the VM is served.

    The process has a session of its own and none of our descriptors, so that a caller that waits for the end of our
    output need not wait for the VM's.

    :raises SnaptreeError: where it could not begin.
    :raises Interrupted: where the user interrupted us; what was begun has ended.
    """
    return detached_all([work])[0]


def detached_all(works: Sequence[Work]) -> list[Ready]:
    """Supervise several VMs, each in a process of its own, and return once all are served.

    :raises SnaptreeError: the first that could not begin; the others are served, or could not begin either.
    :raises Interrupted: where the user interrupted us; what was begun has ended.
    """
    begun = []
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        for work in works:
            begun.append(_begin(work))
        heard = [listen(pipe) for _, pipe in begun]
    except KeyboardInterrupt:
        for pid, _ in begun:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid, _ in begun:
            os.waitpid(pid, 0)
        raise Interrupted("Interrupted before the VM was served.") from None
    failures: list[SnaptreeError] = []
    found = []
    for (pid, _), words in zip(begun, heard, strict=True):
        value = said(words)
        if "error" in value:
            os.waitpid(pid, 0)
            failures.append(error_of(value["error"]))
        else:
            found.append(Ready(**{**value, "notes": tuple(value["notes"])}))
    if failures:
        raise failures[0]
    return found


_ENDED = {
    "message": "The supervisor ended before the VM was served.",
    "remedy": "Its last words are in supervisor.log in the VM's folder.",
}


def _begin(work: Work) -> tuple[int, int]:
    """Start a supervisor; return its pid, and a pipe that says how it began."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        be_detached(work, write)
    os.close(write)
    return pid, read


def listen(pipe: int) -> bytes:
    """Return all that a supervisor says of how it began, and close the pipe."""
    with open(pipe, "rb") as file:
        return file.read()


def said(words: bytes) -> dict[str, Any]:
    """Return what a supervisor said: the members of Ready, or ``error``."""
    value: dict[str, Any] = json.loads(words) if words else {"error": {"code": "failed", **_ENDED}}
    return value


def error_of(value: dict[str, Any]) -> SnaptreeError:
    """Return the error that a supervisor said."""
    error = from_code(value["code"], value["message"], value.get("remedy", ""))
    if isinstance(error, NotReady):
        error.reasons = tuple(Reason(**reason) for reason in value.get("reasons", ()))
    return error


def be_detached(work: Work, write: int) -> NoReturn:
    """Be a detached supervisor.

    :param write: the pipe on which it says how it began.
    """
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        keep = 3
        os.dup2(write, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        # QEMU must not inherit it, or the caller would wait for QEMU.
        os.set_inheritable(keep, False)
        told: list[bool] = []

        def tell(value: dict[str, Any]) -> None:
            if not told:
                told.append(True)
                with contextlib.suppress(OSError):
                    os.write(keep, json.dumps(value).encode())
                os.close(keep)

        try:
            end = asyncio.run(_ending_by_signal(work, lambda ready: tell(asdict(ready))))
            status = int(end.failed)
        except SnaptreeError as error:
            reasons = [reason.to_json() for reason in getattr(error, "reasons", ())]
            tell({"error": {"code": error.code, "message": error.message, "remedy": error.remedy, "reasons": reasons}})
        except BaseException as error:
            import logging  # noqa: PLC0415

            logging.getLogger(__name__).exception("the supervisor failed")
            last = traceback.format_exception_only(error)[-1].strip()
            tell({"error": {"code": "failed", "message": f"The supervisor failed: {last}."}})
    finally:
        os._exit(status)


async def _ending_by_signal(work: Work, ready: Callable[[Ready], None]) -> End:
    """Let SIGTERM and SIGHUP cancel the work as SIGINT does, until the supervisor has its own handlers."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await work(ready)
