"""Forks of a VM that is under care: their supervisors as children of its own, which has everything loaded.

Not for: what a fork is (``forking``).  A process that begins anew takes longer to load than a fork takes to start.

The child has a copy of this process's memory, of which it uses nothing but the modules: no connection, no descriptor,
no thread.  What it found it keeps, so that nothing of it is ever closed or ended there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..engine.pins import pin_all
from ..engine.vm import VM
from ..model.errors import UsageError, VMRuns
from ..model.names import check_vm_name
from ..places import forks
from ..places.places import VMPlace
from . import daemon, forking, logs
from .exchange import End, Ready
from .forkstart import Source

FORKS_MAX = 1000


async def start(
    vm: VM, names: Sequence[str], which: Mapping[str, str | None], *, wait: bool = True
) -> list[dict[str, Any]]:
    """Start forks of a VM under care, all at once, and return once all run.

    Prerequisites, effects on success and on failure: for each as of :func:`.forking.fork`.

    :param which: ``name`` or ``id`` of the snapshot.
    :return: of each what ``run --detach`` says, and its notes.
    :raises UsageError, VMRuns: before anything was changed.
    :raises SnaptreeError: the first failure; the others run, or failed too.
    """
    if not 1 <= len(names) <= FORKS_MAX or len(set(names)) != len(names):
        raise UsageError(f"{len(names)} names of forks are given.", f"Give 1 to {FORKS_MAX}, each another.")
    places = [_place(vm.place, name) for name in names]
    for place in places:
        if place.exists():
            raise VMRuns(f"There is a VM {place.name} already.", "Choose another name for the fork.")
    argv, cwd = await asyncio.to_thread(forking.command_line, vm.place)
    made: list[VMPlace] = []
    try:
        for place in places:
            place.make()
            made.append(place)
        snapshot = await pin_all(vm, names, name=which.get("name"), id=which.get("id"), wait=wait)
        store = vm.paged.store if vm.paged is not None else None
        origin = await asyncio.to_thread(forking.look, vm.place, snapshot, argv, cwd, store=store)
    except BaseException:
        for place in made:
            forks.unpin(vm.place, place.name)
            place.remove()
        raise
    pipes = [await _begin(vm, place, origin) for place in places]
    flushing = asyncio.create_task(asyncio.to_thread(forks.flush, vm.place, names))
    values = [daemon.said(words) for words in await asyncio.gather(*map(_listen, pipes))]
    await flushing
    for value in values:
        if "error" in value:
            raise daemon.error_of(value["error"])
    return values


async def _listen(pipe: int) -> bytes:
    """Return all that a supervisor says of how it began, and close the pipe."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    words = b""
    loop.add_reader(pipe, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            data = os.read(pipe, 1 << 16)
            if not data:
                return words
            words += data
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)


async def _begin(vm: VM, place: VMPlace, origin: Source) -> int:
    """Start a fork's supervisor; return the pipe on which it says how it began."""
    read, write = os.pipe()

    async def work(ready: Callable[[Ready], None]) -> End:
        return await forking.fork(vm.place, place, {}, ready=ready, origin=origin)

    with contextlib.ExitStack() as undo:
        undo.callback(os.close, write)
        async with _quiet(vm):
            pid = _fork()
            if pid == 0:
                _child(vm, work, write)
        _collect(pid)
    return read


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn of threads; the one that holds locks waits, and those of the others are made anew.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


_children: set[int] = set()
"""The forks' supervisors whose end nobody has collected; when we end, that is left to init."""


def _collect(pid: int) -> None:
    """Collect the process when it ends."""
    if not _children:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _collect_ended)
    _children.add(pid)
    _collect_ended()  # one may have ended before


def _collect_ended() -> None:
    for pid in list(_children):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            _children.discard(pid)
    if not _children:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)


def _child(vm: VM, work: daemon.Work, write: int) -> None:
    """Be the fork's supervisor; never returns."""
    try:
        gc.freeze()  # what it found is never collected, so nothing of it is closed
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _children.clear()
        if vm.paged is not None:
            vm.paged.leave()
        logs.leave()
        daemon.be_detached(work, write)
    finally:
        os._exit(1)


@asynccontextmanager
async def _quiet(vm: VM) -> AsyncIterator[None]:
    """Let the thread that uses SQLite do nothing meanwhile: its locks are free in a child then."""
    loop = asyncio.get_running_loop()
    waits, go_on = asyncio.Event(), threading.Event()

    def hold() -> None:
        loop.call_soon_threadsafe(waits.set)
        go_on.wait()

    held = asyncio.ensure_future(vm.disk(hold))
    try:
        await waits.wait()
        yield
    finally:
        go_on.set()
        await held


def _place(source: VMPlace, name: str) -> VMPlace:
    check_vm_name(name)
    return VMPlace(name, source.directory.parent / name, source.runtime.parent / name)
