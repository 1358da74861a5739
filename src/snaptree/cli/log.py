"""``snaptree log``: what was done with a VM's snapshots.  Not for: QEMU's own log."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.ids import NIL
from . import output
from .command import Command, Parser, add_json, add_vm
from .human import clean, date_text, duration_text
from .paint import Span
from .source import opened
from .table import Column, Table


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("-n", "--limit", metavar="N", type=_count, help="print the last N entries only")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print it."""
    with opened(args.vm) as source:
        entries = source.history(args.limit)
    if args.json:
        output.document(entries)
    elif entries:
        output.table(render(entries))
    else:
        output.note(f"Nothing was done yet with snapshots of the VM {args.vm}.")
    return 0


def render(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table."""
    columns = (
        Column("AT (UTC)"),
        Column("ACTION"),
        Column("NAME"),
        Column("ID"),
        Column("FROM"),
        Column("DURATION", right=True),
        Column("PAUSE", right=True),
        Column("CLIENT"),
        Column("RESULT", folds=True),
    )
    return Table(columns, [_row(entry) for entry in entries])


def _row(entry: Mapping[str, Any]) -> list[Span]:
    result = str(entry["result"])
    return [
        (date_text(entry["at"]), ""),
        (clean(entry["action"]), ""),
        (clean(entry["name"]), "bold"),
        ((entry["id"] or "-")[:8], "dim"),
        (_came_from(entry), ""),
        (duration_text(entry["duration_ms"]), ""),
        (duration_text(entry["pause_ms"]), ""),
        (clean(entry["client"]), "dim"),
        (clean(result), "good" if result.startswith("ok") else "bad"),
    ]


def _came_from(entry: Mapping[str, Any]) -> str:
    """Return what was current before, as people read it: its name then, else its id."""
    if entry["from"] == "":
        return "unknown"
    if entry["from"] in (None, NIL):
        return "-"
    return clean(entry.get("from_name") or entry["from"][:8])


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_count.__name__ = "number"  # argparse prints it: "invalid number value"

COMMAND = Command(
    name="log",
    description="""\
Show the history of a VM's snapshots, oldest first: what was done, from which current snapshot, how long it took, how
long the VM paused, who did it, and how it ended. Works on a stopped VM too.""",
    arguments=arguments,
    act=act,
    examples=("snaptree log dev -n 10",),
)
