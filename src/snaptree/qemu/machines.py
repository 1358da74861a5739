"""What a QEMU program says about itself: its machine types and their RAM, and what it can.  Not for: a VM's QEMU.

It is asked in a process of its own that has no machine (``-machine none``) and ends at once.  The answers are kept in
``emulators.json`` in the home until the program's file changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..model.errors import QEMUStartFailed, SnaptreeError
from ..model.names import printable
from ..places.files import read_json, write_json
from .launch import GIVE_QEMU

TIMEOUT_S = 15.0
KEPT_MAX = 32
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Emulator:
    """A QEMU program.

    :param version: for example ``7.2.22``.
    :param default_machine: the machine type that it makes where none is asked for; empty where there is no such one.
    :param ram_ids: the id of the RAM block that each machine type makes (``default-ram-id``), by names and aliases;
        empty for one that makes none.
    :param ram_bytes: how much RAM a machine type has where ``-m`` is not given, as far as asked.
    :param saves_snapshots: it has ``snapshot-save`` and ``snapshot-load``.
    :param ignores_shared: it has the migration capability ``x-ignore-shared``.
    """

    version: str
    default_machine: str
    ram_ids: Mapping[str, str]
    ram_bytes: Mapping[str, int]
    saves_snapshots: bool
    ignores_shared: bool


def ask(program: str, cwd: Path, cache: Path, *, machine: str | None = None, ram: bool = False) -> Emulator:
    """Return what a program says about itself, from the cache where that knows it.

    :param program: the first word of a command line; it may be a script that calls QEMU with its own arguments.
    :param cwd: where it is called.
    :param cache: the file of the cache; it need not be there, and need not be writable.
    :param machine: ask again where this machine type is not among those that are known.
    :param ram: how much RAM that machine type, or the default one, has without ``-m`` is wanted too.
    :raises QEMUStartFailed: where it doesn't answer as QEMU does.
    """
    path = find(program, cwd)
    info = path.stat()
    stamp = {"format": FORMAT, "size": info.st_size, "mtime_ns": info.st_mtime_ns}
    known = _kept(cache)
    found = _emulator(known.get(str(path)), stamp)
    asked = False
    if found is None or (machine is not None and machine not in found.ram_ids):
        found, asked = _ask(program, cwd), True
    wanted = machine or found.default_machine
    if ram and wanted not in found.ram_bytes:
        found = replace(found, ram_bytes={**found.ram_bytes, wanted: _ask_ram(program, cwd, wanted)})
        asked = True
    if asked:
        known[str(path)] = {**stamp, **asdict(found)}
        with contextlib.suppress(OSError):  # it is only a cache
            write_json(cache, dict(list(known.items())[-KEPT_MAX:]))
    return found


def ask_now(program: str, cwd: Path) -> Emulator:
    """Return what a program says about itself, without a cache: of a script that calls another QEMU now it is true.

    :raises QEMUStartFailed: where it doesn't answer as QEMU does.
    """
    find(program, cwd)
    return _ask(program, cwd)


def find(program: str, cwd: Path) -> Path:
    """Return where a program is.

    :raises QEMUStartFailed: where it isn't.
    """
    found = shutil.which(program if "/" not in program else str(cwd / program))
    if found is None:
        raise QEMUStartFailed(
            f"There is no program {printable(program)}.",
            GIVE_QEMU,
        )
    return cwd / found


def read_emulator(version: Mapping[str, Any], answers: Sequence[Any]) -> Emulator:
    """Return what the answers say.

    :param version: the version of QMP's greeting.
    :param answers: of query-machines, query-commands and query-migrate-capabilities.
    """
    machines, commands, capabilities = answers
    ids = {}
    default = ""
    for machine in machines:
        for name in (machine["name"], machine.get("alias")):
            if name:
                ids[name] = str(machine.get("default-ram-id", ""))
        if machine.get("is-default"):
            default = machine["name"]
    number = version["qemu"]
    names = {command["name"] for command in commands}
    return Emulator(
        version=f"{number['major']}.{number['minor']}.{number['micro']}",
        default_machine=default,
        ram_ids=ids,
        ram_bytes={},
        saves_snapshots={"snapshot-save", "snapshot-load", "snapshot-delete"} <= names,
        ignores_shared=any(item["capability"] == "x-ignore-shared" for item in capabilities),
    )


def _ask(program: str, cwd: Path) -> Emulator:
    commands = ("query-machines", "query-commands", "query-migrate-capabilities")
    version, answers = _talk(program, cwd, ("-machine", "none"), commands)
    try:
        return read_emulator(version, answers)
    except (KeyError, TypeError, ValueError) as error:
        raise QEMUStartFailed(f"{printable(program)} answers otherwise than QEMU: {error!r}.") from error


def _ask_ram(program: str, cwd: Path, machine: str) -> int:
    words = ("-machine", machine) if machine else ()
    _, answers = _talk(program, cwd, words, ("query-memory-size-summary",))
    try:
        return int(answers[0]["base-memory"])
    except (KeyError, TypeError, ValueError) as error:
        raise QEMUStartFailed(f"{printable(program)} answers otherwise than QEMU: {error!r}.") from error


def _talk(program: str, cwd: Path, words: Sequence[str], commands: Sequence[str]) -> tuple[Any, list[Any]]:
    """Start the program with a QMP monitor on its standard input, and return its version and its answers."""
    argv = [program, *words, "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
    asked = [{"execute": name, "id": name} for name in ("qmp_capabilities", *commands, "quit")]
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise QEMUStartFailed(f"{printable(program)} cannot be started: {error.strerror}.") from error
    with process:
        try:
            out, err = process.communicate("".join(map(json.dumps, asked)).encode(), TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The session is the program's own: a script may have started QEMU as a child.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise QEMUStartFailed(
                f"{printable(program)} was asked about its machine types and said nothing for {TIMEOUT_S:.0f} s."
            ) from None
    version, returned = None, {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            message = json.loads(line)
            version = message["QMP"]["version"] if "QMP" in message else version
            if "return" in message:
                returned[message.get("id")] = message["return"]
    missing = [name for name in commands if name not in returned]
    if version is None or missing:
        said = err.decode("utf-8", "replace").strip().splitlines()
        raise QEMUStartFailed(
            f"{printable(program)} was asked about its machine types and did not answer as QEMU does"
            + (f"; it said: {printable(said[-1])}." if said else ".")
        )
    return version, [returned[name] for name in commands]


def _kept(cache: Path) -> dict[str, Any]:
    try:
        return dict(read_json(cache) or {})
    except SnaptreeError:
        return {}


def _emulator(kept: Any, stamp: Mapping[str, int]) -> Emulator | None:
    """Return what the cache knows; ``None`` where it is of another file, or not of our form."""
    if not isinstance(kept, dict) or any(kept.get(key) != value for key, value in stamp.items()):
        return None
    ids, sizes = kept.get("ram_ids"), kept.get("ram_bytes")
    if not isinstance(ids, dict) or not isinstance(sizes, dict):
        return None
    try:
        return Emulator(
            version=str(kept["version"]),
            default_machine=str(kept["default_machine"]),
            ram_ids={str(name): str(id) for name, id in ids.items()},
            ram_bytes={str(name): int(size) for name, size in sizes.items()},
            saves_snapshots=kept["saves_snapshots"] is True,
            ignores_shared=kept["ignores_shared"] is True,
        )
    except (KeyError, TypeError, ValueError):
        return None
