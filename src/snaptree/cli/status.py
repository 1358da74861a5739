"""``snaptree status``: can the VM be snapshotted now, and if not, why.  Not for: finding the reasons."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..model.errors import SnaptreeError
from ..model.reason import Reason
from ..places.places import VMPlace
from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .human import clean, counted
from .paint import Line
from .source import connected, find_vm, require_supervisor

_MEMORY = {"full": "in full, inside QEMU's own VM state", "pages": "in pages, in the page store"}


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
    from ..engine import offline  # noqa: PLC0415  SQLite

    reasons = []
    try:
        require_supervisor(place)
    except SnaptreeError as error:
        reasons.append(Reason(error.code, error.message, error.remedy).to_json())
    broken = offline.broken(place)
    if broken:
        remedy = (
            f"Run the VM and load a snapshot: `snaptree load {place.name} NAME`; any whole load makes the VM whole."
        )
        reasons.append(Reason("load-incomplete", f"A load failed half way. {broken}", remedy).to_json())
    return {
        "name": place.name,
        "state": place.state().state,
        "run_state": None,
        "busy": None,
        "ready": False,
        "reasons": reasons,
        "advice": [],
        "current": offline.current(place),
        "memory": None,
        "memory_why": "",
        "tracker": None,
        "qemu_version": None,
    }


def render(answer: Mapping[str, Any]) -> list[Line]:
    """Return the lines: the answer, every reason with its remedy, and what else is good to know."""
    name, reasons = answer["name"], answer["reasons"]
    lines: list[Line]
    if answer["ready"]:
        lines = [[(f"{name} can be snapshotted now.", "good")]]
    else:
        lines = [[(f"{name} cannot be snapshotted now, for {counted(len(reasons), 'reason')}:", "bad")]]
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
Also the current snapshot, how RAM is kept, and advice. The exit code is 0 once it has answered, whatever it says.""",
    arguments=arguments,
    act=act,
    examples=("snaptree status dev", "snaptree status dev --json | jq .ready"),
)
