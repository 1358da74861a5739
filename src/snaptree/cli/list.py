"""``snaptree list``: all snapshots of a VM, one a line.  Not for: lineage, which is ``tree``."""

from __future__ import annotations

import argparse

from ..model.snapshot import SnapshotJSON
from . import output
from .command import Command, Parser, add_json, add_vm
from .human import clean, clock_text, date_text, size_text
from .paint import Span
from .source import opened
from .table import Column, Table


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument(
        "--foreign", action="store_true", help="list also those that others took (savevm, virsh, qemu-img)"
    )
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args.vm) as source:
        snapshots = source.snapshots(foreign=args.foreign)
    if args.json:
        output.document(snapshots)
    elif snapshots:
        output.table(render(snapshots))
    else:
        output.note(nothing(args.vm))
    return 0


def nothing(vm: str) -> str:
    """Return what is said of a VM without snapshots."""
    return f"The VM {vm} has no snapshots; `snaptree create {vm} NAME` takes one."


def render(snapshots: list[SnapshotJSON]) -> Table:
    """Return the table."""
    columns = (
        Column(""),
        Column("NAME"),
        Column("CREATED (UTC)"),
        Column("VM SIZE", right=True),
        Column("VM CLOCK", right=True),
        Column("RAM"),
        Column("WHOLE"),
        Column("DESCRIPTION", folds=True),
    )
    return Table(columns, [_row(snapshot) for snapshot in snapshots])


def lacking(snapshot: SnapshotJSON) -> str:
    """Return what a snapshot that is not whole lacks."""
    missing = [clean(d["device"]) for d in snapshot["devices"] if not d["present"]]
    if snapshot.get("foreign", False) and not missing:
        return "see its description"
    return f"not on {', '.join(missing)}" if missing else "see `snaptree show`"


def strange(snapshot: SnapshotJSON) -> str:
    """Return what is said of a snapshot that others took: where it is, under which ids of QEMU, and what is wrong."""
    there = [f"id {clean(id)} on {clean(d['device'])}" for d in snapshot["devices"] for id in d.get("qemu_ids", ())]
    problems = " ".join(clean(problem) for problem in snapshot.get("problems", ()))
    return f"(foreign) {', '.join(there)}" + (f": {problems}" if problems else "")


def _row(snapshot: SnapshotJSON) -> list[Span]:
    current, foreign = snapshot["current"], snapshot.get("foreign", False)
    described = strange(snapshot) if foreign else clean(snapshot["description"])
    if snapshot["automatic"]:
        described = f"(automatic) {described}"
    return [
        ("*" if current else "", "current"),
        (clean(snapshot["name"]), "current" if current else "dim" if snapshot["automatic"] else ""),
        (date_text(snapshot["created"]), ""),
        (size_text(snapshot["vm_state_size"]), ""),
        (clock_text(snapshot["vm_clock"]), ""),
        (snapshot["memory"], ""),
        (output.tick(good=True), "good") if snapshot["consistent"] else (f"no: {lacking(snapshot)}", "bad"),
        (described, "dim"),
    ]


COMMAND = Command(
    name="list",
    description="""\
List the snapshots of a VM, oldest first; a star marks the current one. VM SIZE is what is kept of RAM and device
state, RAM how RAM is kept. WHOLE is read from the images at this moment.
What snaptree has taken by itself says so in its description. Works on a stopped VM too.""",
    arguments=arguments,
    act=act,
    examples=("snaptree list dev", "snaptree list dev --json | jq -r '.[].name'"),
)
