"""``snaptree show``: one snapshot, or the VM, in full.  Not for: what could be done with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..model.ids import NIL
from ..places import forks
from . import output, shown_vm
from .command import Command, Parser, add_json, add_vm, add_which, which
from .human import clean, clean_lines, clock_text, date_text, size_text
from .paint import Line, Span
from .source import find_vm, opened
from .table import Column, Table, layout

_MEMORY = {"full": "inside QEMU's own VM state", "pages": "in the page store", "none": "not kept: disks only"}


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print it."""
    if args.name is None and args.id is None:
        told = shown_vm.describe(find_vm(args.vm))
        if args.json:
            output.document(told)
        else:
            output.lines(shown_vm.render(told))
        return 0
    chosen = which(args)
    with opened(args.vm) as source:
        snapshot = source.snapshot(**chosen)
    snapshot["forks"] = forks.by_snapshot(find_vm(args.vm)).get(str(snapshot["id"]), [])
    if args.json:
        output.document(snapshot)
    else:
        output.lines(render(snapshot))
    return 0


def render(snapshot: Mapping[str, Any]) -> list[Line]:
    """Return the lines."""
    current = [("  current", "current")] if snapshot["current"] else []
    lines: list[Line] = [[(clean(snapshot["name"]), "bold"), *current]]
    facts = _facts(snapshot)
    room = max(len(title) for title, _ in facts)
    for title, values in facts:
        lines.extend([(f"  {title if not i else '':{room}}  ", "dim"), value] for i, value in enumerate(values))
    lines.append([("  devices", "dim")])
    lines.extend([("    ", ""), *line] for line in layout(_devices(snapshot)))
    return lines


def _facts(snapshot: Mapping[str, Any]) -> list[tuple[str, list[Span]]]:
    where = clean(snapshot.get("vmstate_device", ""))
    state = f", {size_text(snapshot['vm_state_size'])}" + (f" on {where}" if where else "")
    facts: list[tuple[str, list[Span]]] = [
        ("id", [(str(snapshot["id"]), "")]),
        ("tag", [(clean(snapshot.get("tag", "")), "")]),
        ("parent", [(_parent(snapshot), "")]),
        ("children", [(clean(", ".join(snapshot.get("children", ()))) or "-", "")]),
        ("forks", [(", ".join(snapshot.get("forks", ())), "")]),
        ("created", [(f"{date_text(snapshot['created'])} UTC", "")]),
        ("VM clock", [(clock_text(snapshot["vm_clock"]), "")]),
        ("RAM", [(_MEMORY.get(snapshot["memory"], clean(snapshot["memory"])), ""), *_why(snapshot)]),
        ("VM state", [(state.removeprefix(", "), "")]),
        ("taken", [("automatically" if snapshot["automatic"] else "by request", "")]),
        ("whole", _whole(snapshot)),
        ("machine", [(line, "") for line in _machine(snapshot.get("machine", {}))]),
        ("description", [(line, "") for line in clean_lines(snapshot["description"])]),
    ]
    return [(title, values) for title, values in facts if values and values[0][0]]


def _parent(snapshot: Mapping[str, Any]) -> str:
    if snapshot["parent_id"] == NIL:
        return "-"
    return f"{clean(snapshot['parent_name']) or 'lost'} ({snapshot['parent_id']})"


def _whole(snapshot: Mapping[str, Any]) -> list[Span]:
    if snapshot["consistent"]:
        return [(output.tick(good=True), "good")]
    problems = snapshot.get("problems") or [snapshot.get("flaw") or "It is not whole."]
    return [(f"no: {clean(problems[0])}", "bad"), *((f"    {clean(problem)}", "bad") for problem in problems[1:])]


def _machine(machine: Mapping[str, Any]) -> list[str]:
    lines = []
    if machine.get("machine"):
        lines.append(clean(machine["machine"]))
    if machine.get("cpus") or machine.get("cpu"):
        lines.append(clean(f"{machine.get('cpus') or '?'} x {machine.get('cpu') or 'CPU'}"))
    if machine.get("ram_size"):
        lines.append(f"{size_text(machine['ram_size'])} of RAM")
    if machine.get("devices"):
        lines.append(clean(", ".join(machine["devices"])))
    return lines


def _devices(snapshot: Mapping[str, Any]) -> Table:
    columns = (
        Column("DEVICE"),
        Column("PRESENT"),
        Column("SIZE", right=True),
        Column("NODE"),
        Column("FILE"),
    )
    return Table(
        columns,
        [
            [
                (clean(d["device"]), ""),
                (output.tick(good=d["present"]), "good" if d["present"] else "bad"),
                (size_text(d["size"]), ""),
                (clean(d["node"]), "dim"),
                (clean(d["file"]), ""),
            ]
            for d in snapshot["devices"]
        ],
    )


def _why(snapshot: Mapping[str, Any]) -> Line:
    return [(clean(snapshot["memory_why"]), "dim")] if snapshot.get("memory_why") else []


COMMAND = Command(
    name="show",
    description="""\
Show everything that is known of a snapshot: its place in the tree, the machine that it was taken of, and every device,
with whether its image holds it at this moment. Without a snapshot, show the VM: its command line, what stands in it for
each placeholder, its disks and its places. Works on a stopped VM too.""",
    arguments=arguments,
    act=act,
    usage="snaptree show [-h] [--json] VM [NAME | --id ID]",
    examples=("snaptree show dev before-upgrade", "snaptree show dev"),
)
