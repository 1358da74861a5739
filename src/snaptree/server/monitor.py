"""The human monitor's snapshot commands, with one meaning each.  Not for: any other monitor command, which passes.

``savevm NAME`` takes a new name only; ``loadvm`` and ``delvm`` say which of two they mean, ``tag=NAME`` or ``id=ID``;
``info snapshots`` shows every device.  Errors are text, as the monitor's own are.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from ..engine import views
from ..engine.create import create
from ..engine.delete import delete
from ..engine.load import load
from ..engine.vm import VM
from ..model.errors import NotReady, SnaptreeError
from ..model.names import printable
from ..model.snapshot import SnapshotJSON

Monitor = Callable[[VM, str, str], Awaitable[str]]

_RAW = {
    "snapshot_blkdev_internal": "Use savevm NAME; it takes all devices and RAM.",
    "snapshot_delete_blkdev_internal": "Use delvm tag=NAME.",
}


_SPACE = " \t\n\v\f\r"
_WORD = re.compile(rf"[{_SPACE}]*([^{_SPACE}/]*)")
_HELP = {
    "savevm": "savevm NAME -- take a snapshot of the whole VM; the name must be new",
    "loadvm": "loadvm tag=NAME|id=ID -- bring the whole VM back to a snapshot",
    "delvm": "delvm tag=NAME|id=ID -- delete a snapshot from all devices",
    "info snapshots": "info snapshots  -- show all snapshots, and on which devices they are",
}


def split(line: str) -> tuple[str, str]:
    """Return a line's first word and the rest, cut as the monitor does: at white space of C's, and at ``/``."""
    match = _WORD.match(line)
    return (match[1], line[match.end() :].strip(_SPACE)) if match else ("", "")


def find(line: str, *, raw: bool = False) -> tuple[Monitor, str] | None:
    """Return what answers a monitor command and its arguments; ``None`` where it is not ours.

    :param raw: the user has asked for QEMU's own block snapshot commands.
    """
    word, rest = split(line)
    if word == "info":
        topic, more = split(rest)
        return (_info_snapshots, more) if topic == "snapshots" else None
    if word in ("help", "?"):
        return (_help, rest) if rest in _HELP else None
    if word in _RAW:
        return None if raw else (_refuse, word)
    monitor = {"savevm": _savevm, "loadvm": _loadvm, "delvm": _delvm}.get(word)
    return (monitor, rest) if monitor else None


def refused_to_continue(vm: VM, line: object) -> str | None:
    """Return what a ``cont`` is answered while disks and RAM don't belong together; ``None`` where it may pass."""
    if not (vm.broken and isinstance(line, str) and split(line)[0] in ("c", "cont")):
        return None
    return f"Error: The VM cannot continue: a load failed half way. {vm.broken} Load a snapshot: loadvm tag=NAME\r\n"


async def answer(vm: VM, monitor: Monitor, rest: str, client: str) -> str:
    """Run a monitor command and return its text; an error is text too."""
    try:
        return await monitor(vm, rest, client)
    except NotReady as error:
        lines = [f"Error: {error.message.partition(': ')[0]}:"]
        for reason in error.reasons:
            lines += [f"  {reason.message}", f"    {reason.remedy}"]
        return "\r\n".join(lines) + "\r\n"
    except SnaptreeError as error:
        return f"Error: {error}\r\n"


async def _savevm(vm: VM, rest: str, client: str) -> str:
    if not rest or " " in rest:
        return "Error: savevm takes one new name: savevm NAME\r\n"
    await create(vm, rest, client=client)
    return ""


async def _loadvm(vm: VM, rest: str, client: str) -> str:
    chosen = _which("loadvm", rest)
    if isinstance(chosen, str):
        return chosen
    await load(vm, name=chosen.get("name"), id=chosen.get("id"), client=client)
    return ""


async def _delvm(vm: VM, rest: str, client: str) -> str:
    chosen = _which("delvm", rest)
    if isinstance(chosen, str):
        return chosen
    await delete(vm, name=chosen.get("name"), id=chosen.get("id"), client=client)
    return ""


async def _refuse(vm: VM, word: str, client: str) -> str:
    return f"Error: {word} would go around the lineage of the snapshots. {_RAW[word]}\r\n"


def _which(command: str, rest: str) -> dict[str, str] | str:
    """Return the keyword argument that names a snapshot, or the text that shows the two forms."""
    key, equals, value = rest.partition("=")
    if equals and value and " " not in value and key in ("tag", "id"):
        return {"name" if key == "tag" else "id": value}
    said = f" {printable(rest)} could be either:" if rest else ""
    word = rest if rest and rest.isprintable() and " " not in rest and "=" not in rest else "NAME"
    return f"Error: {command} wants to know what you mean.{said} {command} tag={word} or {command} id=ID\r\n"


async def _help(vm: VM, rest: str, client: str) -> str:
    return f"{_HELP[rest]}\r\n"


async def _info_snapshots(vm: VM, rest: str, client: str) -> str:
    if rest:
        return "Error: info snapshots takes no argument\r\n"
    found = await vm.disk(views.snapshots, vm.catalog, vm.place, vm.attached, vm.tables, foreign=True)
    ours = [s for s in found if not s.get("foreign")]
    foreign = [s for s in found if s.get("foreign")]
    devices = ", ".join(sorted(vm.attached)) or "none"
    lines = [f"Snapshots of {vm.place.name}, devices: {devices}"]
    if ours:
        lines += _table(
            ["", "TAG", "ID", "PARENT", "DATE (UTC)", "VM CLOCK", "VM SIZE", "DEVICES"],
            [
                [
                    "*" if s["current"] else "",
                    s["name"],
                    str(s["id"]),
                    s["parent_name"] or "-",
                    s["created"][:19].replace("T", " "),
                    clock(s["vm_clock"]),
                    size(s["vm_state_size"]),
                    _holders(s),
                ]
                for s in ours
            ],
        )
    else:
        lines.append("There is no snapshot; savevm NAME takes one.")
    if foreign:
        lines.append("Not taken by snaptree:")
        lines += _table(
            ["", "TAG", "DATE (UTC)", "VM CLOCK", "VM SIZE", "DEVICES"],
            [
                [
                    "",
                    printable(s["name"]),
                    s["created"][:19].replace("T", " "),
                    clock(s["vm_clock"]),
                    size(s["vm_state_size"]),
                    _holders(s),
                ]
                for s in foreign
            ],
        )
    return "\r\n".join(lines) + "\r\n"


def _holders(snapshot: SnapshotJSON) -> str:
    missing = [d["device"] for d in snapshot["devices"] if not d["present"]]
    if missing:
        return f"MISSING on {', '.join(missing)}"
    return "all" if snapshot["consistent"] else "all, NOT CONSISTENT"


def clock(ns: int) -> str:
    """Return a VM clock as H:MM:SS.mmm."""
    seconds, rest = divmod(ns, 10**9)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest // 10**6:03d}"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
