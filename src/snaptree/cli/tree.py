"""``snaptree tree``: the lineage of a VM's snapshots.  Not for: how lineage is drawn."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from types import MappingProxyType

from ..model.ids import NIL
from ..model.snapshot import SnapshotJSON
from ..model.tree import nest
from ..places import forks
from . import output
from .command import Command, Parser, add_json, add_vm
from .graph import ASCII, UNICODE, draw
from .human import clean, date_text
from .list import lacking, nothing
from .paint import Line, Span
from .source import find_vm, opened

NO_FORKS: Mapping[str, list[str]] = MappingProxyType({})


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print it."""
    with opened(args.vm) as source:
        snapshots = source.snapshots()
    if args.json:
        output.write(document(nest(snapshots)) + "\n")
        return 0
    place = find_vm(args.vm)
    begun = forks.beginning(place)
    if begun is not None:
        output.lines([[(fork_of(begun), "dim")]])
    if snapshots:
        output.lines(render(snapshots, forks.by_snapshot(place)))
    else:
        output.note(nothing(args.vm))
    return 0


def fork_of(begun: forks.Beginning) -> str:
    """Say what a fork began with."""
    return f"fork of {clean(begun.vm)} at {clean(begun.name)}"


def render(snapshots: list[SnapshotJSON], standing: Mapping[str, list[str]] = NO_FORKS) -> list[Line]:
    """Return the lines.

    :param standing: the forks that stand on each snapshot, by its id.
    """
    drawn = draw(snapshots, UNICODE if output.is_unicode() else ASCII)
    known = {snapshot["id"] for snapshot in snapshots}
    room = max(len(drawing) + len(clean(s["name"])) + 1 for drawing, s in drawn if s)
    return [
        [*_line(drawing, snapshot, known, room), *_forks(standing.get(str(snapshot["id"]), []))] if snapshot else ()
        for drawing, snapshot in drawn
    ]


def document(roots: list[SnapshotJSON]) -> str:
    """Return the nested form as JSON.

    Python's own encoder recurses, and a line of 1,000 snapshots is nested 2,000 deep.
    """
    parts: list[str] = []
    waiting: list[str | SnapshotJSON] = ["]", *_separated(roots)[::-1], "["]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        own = {key: value for key, value in item.items() if key != "children"}
        parts.append(json.dumps(own)[:-1] + ', "children": [')
        waiting += ["]}", *_separated(item.get("children", []))[::-1]]
    return "".join(parts)


def _separated(items: list[SnapshotJSON]) -> list[str | SnapshotJSON]:
    return [part for item in items for part in (", ", item)][1:]


def _line(drawing: str, snapshot: SnapshotJSON, known: set[str | None], room: int) -> list[Span]:
    current = "current" if snapshot["current"] else ""
    name = clean(snapshot["name"])
    line: list[Span] = [
        (f"{drawing} ", current and "bold"),
        (name, current or ("dim" if snapshot["automatic"] else "")),
        (" " * (room - len(drawing) - len(name) - 1), ""),
        (f"  {date_text(snapshot['created'])}", "dim"),
    ]
    if current:
        line.append(("  current", current))
    if snapshot["automatic"]:
        line.append(("  automatic", "dim"))
    if not snapshot["consistent"]:
        line.append((f"  not whole: {lacking(snapshot)}", "bad"))
    if snapshot["parent_id"] != NIL and snapshot["parent_id"] not in known:
        line.append((f"  its parent {snapshot['parent_id'][:8]} is lost", "note"))
    if snapshot["description"]:
        line.append((f"  {clean(snapshot['description'])}", "dim"))
    return line


def _forks(names: list[str]) -> list[Span]:
    return [(f"  {'forks' if len(names) > 1 else 'fork'}: {', '.join(names)}", "note")] if names else []


COMMAND = Command(
    name="tree",
    description="""\
Show which snapshot descends from which. A snapshot stands right below its parent, in the same column; what else
descends from that parent branches off to the right, before it. A filled dot marks the current one. What forks stand on
a snapshot is said beside it, and of a fork first what it began with.
Works on a stopped VM too.""",
    arguments=arguments,
    act=act,
    examples=("snaptree tree dev",),
)
