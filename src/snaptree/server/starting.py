"""Starting QEMU for a supervisor, with guest RAM where the pages way needs it.  Not for: what is done with it then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..model.errors import QEMUStartFailed, Refused, SnaptreeError
from ..places.files import read_json
from ..places.places import VMPlace
from ..qemu import commandline, hostmemory, launch, machines, rambackend, ramfiles
from ..qemu.machines import Emulator
from ..qemu.rambackend import RAMPlan
from ..qemu.ramunseen import CONFIGURED, groups_of
from . import logs
from .care import Supervised
from .exchange import Options


async def start(
    place: VMPlace,
    argv: Sequence[str],
    cwd: Path,
    *,
    foreground: bool,
    umask: int,
    options: Options,
    inherit: Sequence[int] = (),
) -> tuple[Supervised, dict[str, str]]:
    """Start QEMU, and connect to it; the guest has not run yet.

    Prerequisites: the VM's lock is ours.
    Effects on failure: QEMU doesn't run.

    :param inherit: more descriptors that QEMU shall have, under the same numbers.
    :return: what is under care now, and what ``command.json`` shall say about its memory.
    :raises Refused: where the pages way was insisted on and can't be had, or the host has too little memory.
    :raises QEMUStartFailed: where the program cannot be executed, or QEMU ends at its start.
    """
    plan = await asyncio.to_thread(plan_ram, place, argv, cwd, options)
    if options.memory == "pages":
        refuse_full(place, plan)
    if plan.way == "pages":
        ramfiles.check_memory(plan.ours, hostmemory.available())

    async def attempt(plan: RAMPlan) -> Supervised:
        supervised = launch_qemu(place, plan, cwd, foreground=foreground, umask=umask, options=options, inherit=inherit)
        try:
            await supervised.connect_started(f"unix:{place.qemu_socket}")
        except BaseException:
            await supervised.abandon()
            raise
        supervised.memory_wanted, supervised.memory_why = options.memory, plan.reason
        return supervised

    try:
        supervised = await attempt(plan)
        try:
            await _check_block(supervised, plan)
        except BaseException:
            await supervised.abandon()
            raise
    except QEMUStartFailed as error:
        if plan.way == "full" or options.memory == "pages":
            raise
        # A script may give QEMU more than we see.  Where this fails too, the error is that of the user's own words.
        last = error.message.splitlines()[-1]
        plan = rambackend.full(argv, f"With RAM in a file of ours QEMU does not start: {last}", _SCRIPT)
        supervised = await attempt(plan)
    return supervised, memory_record(options, plan)


_SCRIPT = "Where a script starts QEMU, give -machine and -m on the command line, not in the script."


def read_memory(place: VMPlace) -> tuple[str, str]:
    """Return what was wanted when this VM's QEMU was started, and why that could not be had; empty where it could."""
    try:
        memory = (read_json(place.command) or {}).get("memory")
    except SnaptreeError:
        memory = None
    if not isinstance(memory, dict):
        return "auto", ""
    return str(memory.get("wanted", "auto")), str(memory.get("why", ""))


def plan_ram(place: VMPlace, argv: Sequence[str], cwd: Path, options: Options) -> RAMPlan:
    """Return where RAM shall lie; a program that is not known yet is asked."""
    if options.memory == "full":
        return rambackend.full(argv, "It was started with --memory full.", "Leave that out.")

    def ask(machine: str | None, ram: bool) -> Emulator:
        return machines.ask(argv[0], cwd, place.emulators, machine=machine, ram=ram)

    def groups(path: str) -> frozenset[str]:
        try:
            return groups_of((cwd / path).read_text("utf-8", "replace"))
        except OSError:
            return CONFIGURED

    try:
        return rambackend.plan(argv, ask, groups)
    except QEMUStartFailed as error:
        return rambackend.full(argv, error.message, "Begin the command line with QEMU, or a script that only calls it.")


def refuse_full(place: VMPlace, plan: RAMPlan) -> None:
    """:raises Refused: where RAM cannot be kept in pages; to be called where nothing else will do."""
    if plan.way == "full":
        raise Refused(f"The RAM of the VM {place.name} cannot be kept in pages: {plan.why}", plan.remedy)


def memory_record(options: Options, plan: RAMPlan) -> dict[str, str]:
    """Return what ``command.json`` shall say of memory; :func:`read_memory` reads it."""
    return {"wanted": options.memory, "way": plan.way, "why": plan.reason}


def launch_qemu(
    place: VMPlace,
    plan: RAMPlan,
    cwd: Path,
    *,
    foreground: bool,
    umask: int,
    options: Options,
    inherit: Sequence[int] = (),
) -> Supervised:
    """Start QEMU, and don't wait until it can be connected to.

    Prerequisites: the VM's lock is ours.
    Effects on failure: QEMU doesn't run.

    :raises QEMUStartFailed: where the program cannot be executed.
    """
    words = logs.QEMUWords(place.qemu_log)
    listener = launch.listen(place.qemu_socket)
    try:
        with ramfiles.memfds(plan.ours) as memfds:
            complete = commandline.with_monitor(plan.argv(memfds), listener.fileno())
            passed = [listener.fileno(), *memfds.values(), *inherit]
            process = launch.start(complete, cwd, place.qemu_log, inherit=passed, foreground=foreground, umask=umask)
    finally:
        listener.close()
    supervised = Supervised(place, process, words, owns_qemu=True, foreground=foreground, options=options)
    try:
        supervised.note_running(f"unix:{place.qemu_socket}")
    except BaseException:
        process.kill()
        raise
    return supervised


async def _check_block(supervised: Supervised, plan: RAMPlan) -> None:
    """Make sure that the RAM which we have added has the id that the machine would have given it.

    A script can choose another machine type than we see.  With another id, snapshots would load here alone.

    :raises QEMUStartFailed: where it hasn't.
    """
    if not plan.ram_id or supervised.session is None:
        return
    execute = supervised.session.execute
    kind = str(await execute("qom-get", {"path": "/machine", "property": "type"})).removesuffix("-machine")
    known: list[dict[str, Any]] = await execute("query-machines")
    right = next((machine.get("default-ram-id") for machine in known if machine["name"] == kind), plan.ram_id)
    if right != plan.ram_id:
        raise QEMUStartFailed(f"The machine {kind} calls its RAM {right}, and not {plan.ram_id}.")
