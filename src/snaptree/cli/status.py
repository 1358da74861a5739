"""``snaptree status``: can the VM be snapshotted now, and if not, why.  Not for: finding the reasons."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..model.reason import Reason
from ..places.places import VMPlace
from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .human import clean, counted
from .paint import Line
from .source import connected, find_vm, unsupervised

_MEMORY = {
    "full": "in full, inside QEMU's own VM state",
    "pages": "in pages, in the page store",
    "none": "none: a snapshot holds the disks only while the VM does not run",
}


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print it."""
    place = find_vm(args.vm)
    answer = of_supervised(place) if place.state().state == "supervised" else of_home(place)
    if args.json:
        output.document(answer)
    else:
        output.lines(render(answer))
    return 0


def of_supervised(place: VMPlace) -> dict[str, Any]:
    """Ask the supervisor."""
    with connected(place) as client, progress.shown(f"asking {place.name}"):
        vm = client.execute("query-vm", {})
        current = client.execute("query-current-snapshot", {})
        status = client.execute("query-snapshot-status", {"reasons": True})
    return {
        "name": place.name,
        "state": vm["state"],
        "run_state": vm["run_state"],
        "busy": vm["busy"],
        "ready": status["ready"],
        "reasons": status["reasons"],
        "advice": status["advice"],
        "current": current,
        "memory": vm["memory"],
        "memory_why": vm["memory_why"],
        "tracker": vm["tracker"],
        "qemu_version": vm["qemu_version"],
    }


def of_home(place: VMPlace) -> dict[str, Any]:
    """Answer for a VM that nobody supervises."""
    from ..engine import offline, offline_status  # noqa: PLC0415  SQLite and the qcow2 reader

    known = place.state()
    if known.state == "stopped":
        found = offline_status.look(place)
        reasons, advice, busy = found.reasons, found.advice, "command" if found.busy else None
    else:
        error = unsupervised(place, known.qemu_pid)
        reasons, advice, busy = (Reason(error.code, error.message, error.remedy),), (), None
    return {
        "name": place.name,
        "state": known.state,
        "run_state": None,
        "busy": busy,
        "ready": not reasons,
        "reasons": [reason.to_json() for reason in reasons],
        "advice": [reason.to_json() for reason in advice],
        "current": offline.current(place),
        "memory": "none" if known.state == "stopped" else None,
        "memory_why": "",
        "tracker": None,
        "qemu_version": None,
    }


def render(answer: Mapping[str, Any]) -> list[Line]:
    """Return the lines: the answer, every reason with its remedy, and what else is good to know."""
    name, reasons = answer["name"], answer["reasons"]
    lines: list[Line]
    what = f"{name} does not run; its disks" if answer["state"] == "stopped" else name
    if answer["ready"]:
        lines = [[(f"{what} can be snapshotted now.", "good")]]
    else:
        lines = [[(f"{what} cannot be snapshotted now, for {counted(len(reasons), 'reason')}:", "bad")]]
    for reason in reasons:
        lines += _reason(reason)
    state = answer["state"] + (f" ({clean(answer['run_state'])})" if _is_odd(answer) else "")
    lines.append([("state    ", "dim"), (state, "")])
    if answer["busy"]:
        lines.append([("busy     ", "dim"), (f"with a {clean(answer['busy'])}", "note")])
    lines.append([("current  ", "dim"), *_current(answer["current"])])
    if answer["memory"]:
        why = f": {clean(answer['memory_why'])}" if answer["memory_why"] else ""
        lines.append([("RAM      ", "dim"), (_MEMORY.get(answer["memory"], clean(answer["memory"])) + why, "")])
    for advice in answer["advice"]:
        lines.append([("advice", "note")])
        lines += _reason(advice)
    return lines


def _is_odd(answer: Mapping[str, Any]) -> bool:
    return bool(answer["run_state"]) and answer["run_state"] != answer["state"]


def _reason(reason: Mapping[str, Any]) -> list[Line]:
    device = [(f"{clean(reason['device'])}: ", "bold")] if reason["device"] else []
    lines: list[Line] = [[("  ", ""), *device, (clean(reason["message"]), "")]]
    if reason["remedy"]:
        lines.append([(f"    {clean(reason['remedy'])}", "dim")])
    return lines


def _current(current: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not current["known"]:
        return [(f"unknown. {clean(current.get('why', ''))}".strip(), "note")]
    if not current["name"]:
        return [("none", "")]
    return [(clean(current["name"]), "current"), (f"  {current['id']}", "dim")]


COMMAND = Command(
    name="status",
    description="""\
Say whether the VM can be snapshotted now, and if not: every reason, device by device, each with its remedy.
Of a VM that does not run: whether its disks can be. Also the current snapshot, how RAM is kept, and advice. The exit
code is 0 once it has answered, whatever it says.""",
    arguments=arguments,
    act=act,
    examples=("snaptree status dev", "snaptree status dev --json | jq .ready"),
)
