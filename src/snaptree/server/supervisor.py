"""The supervisor: the one process that looks after one VM.  Not for: the command line's words about it.

It holds the VM's lock from start to end.  Killed, it leaves QEMU running; the next one takes up again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engine import offline_recover, origins
from ..engine.arrive import Resumed
from ..engine.offline_hold import disks_of
from ..model.errors import Busy, NotReady, QEMUGone, Refused, VMRuns
from ..model.names import printable
from ..places.files import read_json
from ..places.lock import SupervisorLock, holder
from ..places.places import VMPlace
from ..places.process import identify
from ..qemu import commandline, fillings, placeholders
from . import listeners, logs, starting
from .care import Supervised
from .ending import seems_alive
from .exchange import End, Options, Ready
from .find import absolute, command_of, cwd_of, find_process

DEFAULT = Options()


async def run(
    place: VMPlace,
    argv: Sequence[str],
    cwd: Path,
    *,
    foreground: bool,
    ready: Callable[[Ready], None],
    options: Options = DEFAULT,
    arrival: Resumed | None = None,
) -> End:
    """Start QEMU and look after it until it ends.

    Prerequisites: no such VM runs; a stopped VM of this name has the same disks.
    Effects on success: returns when QEMU has ended; a signal to end (SIGINT, SIGTERM, SIGHUP) quits QEMU first.
    Effects on failure: QEMU doesn't run; a VM that did not exist before does not exist.

    :param argv: may hold placeholders.
    :param arrival: the snapshot that the VM goes on from, before its guest has run.
    :raises UsageError: where something has a placeholder's form and is none.
    :raises VMRuns, OtherDisks, Refused, QEMUStartFailed: nothing was changed.
    """
    listeners.check(options.listen, options.tls)
    placeholders.wanted(argv)
    refuse_command_line(argv, detached=not foreground)
    fresh = not place.exists()
    place.make()
    lock = take_lock(place)
    try:
        running = place.running()
        if running and running.qemu and running.qemu.alive():
            raise unsupervised(place, running.qemu.pid)
        umask = logs.set_up(place)
        mended = offline_recover.before_start(place, lock)
        origin = origins.read(place)
        if origin is not None:
            await asyncio.to_thread(origins.remake_views, origin)
        filled = fillings.fill_for(place, argv)
        inherit = arrival.open(place) if arrival is not None else ()
        supervised, memory = await starting.start(
            place, filled.argv, cwd, foreground=foreground, umask=umask, options=options, inherit=inherit
        )
        supervised.notes += [*[mended] * bool(mended), *filled.notes]
        try:
            command = commandline.analyse(filled.argv)
            record: dict[str, Any] = {
                "argv": list(argv),
                "cwd": str(cwd),
                "memory": memory,
                fillings.MEMBER: filled.values,
            }
            if origin is not None:
                record[origins.MEMBER] = origin.to_json()
            go = not (command.paused or command.incoming)
            await supervised.begin(record, fresh=fresh, same_qemu=False, go=go, arrival=arrival)
            if arrival is not None:
                await arrival.close()
        except BaseException as error:
            await supervised.abandon()
            if isinstance(error, QEMUGone):
                raise QEMUGone(f"{error.message} {supervised.how_it_ended()}", error.remedy) from error
            raise
        fresh = False
        return await supervised.serve(ready)
    finally:
        if arrival is not None:
            await arrival.close()
        if fresh:
            place.remove()
        lock.release()


async def attach(
    place: VMPlace, address: str | None, *, ready: Callable[[Ready], None], options: Options = DEFAULT
) -> End:
    """Look after a QEMU that runs already, until it ends.

    Prerequisites: nobody supervises the VM; nobody else uses QEMU's socket; a known VM has the same disks.
    Effects on success: returns when QEMU has ended; a signal to end leaves QEMU running.
    Effects on failure: none; QEMU runs on.

    :param address: QEMU's QMP socket; ``None`` for the one that the VM had.
    :raises VMRuns, OtherDisks, QEMUGone, ProtocolError: nothing was changed.
    """
    listeners.check(options.listen, options.tls)
    fresh = not place.exists()
    if fresh and address is None:
        raise Refused(
            f"There is no VM {place.name} yet.",
            f"Say where its QEMU listens: snaptree attach {place.name} --qmp unix:PATH.",
        )
    place.make()
    lock = take_lock(place)
    try:
        known = place.running()
        if address is None:
            address = known.qemu_qmp if known is not None and known.qemu_qmp else attached_at(place)
        logs.set_up(place)
        address = absolute(address)
        process = find_process(address, known)
        ours = known.qemu if known and known.qemu and known.qemu.alive() else None
        if ours is not None and process is not None and identify(process.pid) != ours:
            raise VMRuns(
                f"QEMU of the VM {place.name} (pid {ours.pid}) runs, and {printable(address)} is another one.",
                f"`snaptree attach {place.name}` takes it up again; for the other one choose another name.",
            )
        words = logs.QEMUWords(place.qemu_log)
        owns = known is not None and not known.attached and process is not None and known.qemu == identify(process.pid)
        supervised = Supervised(
            place, process, words, owns_qemu=False, foreground=False, attached=not owns, options=options
        )
        try:
            await supervised.connect(address)
            if owns:
                supervised.memory_wanted, supervised.memory_why = starting.read_memory(place)
            # Over TCP the process is not known; the same address then stands for the same QEMU.
            here = identify(process.pid) if process else None
            same = known is not None and known.qemu == here and known.qemu_qmp == address
            argv = placeholders.escaped(command_of(process))
            record = None if owns else {"argv": argv, "cwd": cwd_of(process), "attached": address}
            await supervised.begin(record, fresh=fresh, same_qemu=same, go=False, attached_at=address)
        except BaseException:
            gone = known is not None and known.qemu is None and isinstance(sys.exception(), QEMUGone)
            if gone and await seems_alive(address, [device.file for device in disks_of(place).values()]):
                gone = False
            await supervised.let_go(keep_running=known is not None and not gone)
            raise
        fresh = False
        return await supervised.serve(ready)
    finally:
        if fresh:
            place.remove()
        lock.release()


def attached_at(place: VMPlace) -> str:
    """Return where QEMU of a VM listened when it was last attached.

    :raises Refused: where it never was.
    """
    found = (read_json(place.command) or {}).get("attached")
    if not isinstance(found, str) or not found:
        raise Refused(
            f"The VM {place.name} does not run, or it is not known where its QEMU listens.",
            f"`snaptree resume {place.name}` starts it; for a QEMU that runs, say where:"
            f" snaptree attach {place.name} --qmp unix:PATH.",
        )
    return found


def refuse_command_line(argv: Sequence[str], *, detached: bool) -> None:
    """Make sure that QEMU's command line can be looked after.

    :raises Refused: where it holds what would go around us, with every reason.
    """
    reasons = commandline.refusals(commandline.analyse(list(argv)), detached)
    if reasons:
        raise NotReady(f"This QEMU command line cannot be run here: {reasons[0].message}", reasons[0].remedy, reasons)


def take_lock(place: VMPlace) -> SupervisorLock:
    """Take the lock of a VM.

    :raises VMRuns: where another supervisor has it.
    :raises Busy: where a command works on the VM, which is stopped.
    """
    while (lock := SupervisorLock.take(place.lock)) is None:
        by_whom = holder(place.lock)
        if by_whom == "command":
            raise Busy(f"Another command works on the images of the VM {place.name}.", "Try again when it has ended.")
        if by_whom is None:
            continue  # it has just ended
        known = place.running()
        by = f", under the supervisor with the pid {known.supervisor_pid}" if known and known.supervisor_pid else ""
        raise VMRuns(
            f"The VM {place.name} runs already{by}.", f"`snaptree stop {place.name}` ends it; or choose another name."
        )
    return lock


def unsupervised(place: VMPlace, pid: int) -> VMRuns:
    """Return the error for a VM whose QEMU runs without a supervisor."""
    return VMRuns(
        f"QEMU of the VM {place.name} (pid {pid}) runs already, and nobody supervises it.",
        f"`snaptree attach {place.name}` takes it up again.",
    )
