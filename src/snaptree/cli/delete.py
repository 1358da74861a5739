"""``snaptree delete``: take a snapshot off all devices.  Not for: how that is done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from . import output, progress
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .human import counted, duration_text
from .outcome import last_event, short
from .source import connected, find_vm


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    parser.add_argument("--children", action="store_true", help="delete everything that descends from it too")
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Delete it, and say so."""
    chosen = which(args)
    request = {**chosen, "children": args.children, "wait": not args.no_wait}
    with connected(find_vm(args.vm)) as client, progress.shown(f"deleting {args.name or args.id}"):
        doomed = [client.execute("query-snapshot", chosen)]
        if args.children:
            doomed += below(client.execute("query-snapshots", {}), doomed[0]["id"])
        client.execute("snapshot-delete", request)
        event = last_event(client.events, "SNAPSHOT_DELETED", {"id": doomed[0]["id"]})
    deleted = [{"name": s["name"], "id": s["id"]} for s in doomed]
    duration_ms = event.get("duration_ms", 0)
    if args.json:
        output.document({"deleted": deleted, "duration_ms": duration_ms})
    else:
        more = f" and the {counted(len(deleted) - 1, 'snapshot')} below it" if len(deleted) > 1 else ""
        output.say(f"deleted {deleted[0]['name']} ({short(deleted[0]['id'])}){more} in {duration_text(duration_ms)}")
    return 0


def below(snapshots: Sequence[dict[str, Any]], root_id: str) -> list[dict[str, Any]]:
    """Return the snapshots that descend from ``root_id``, parents first."""
    children: dict[str, list[dict[str, Any]]] = {}
    for snapshot in snapshots:
        children.setdefault(snapshot["parent_id"], []).append(snapshot)
    found = children.pop(root_id, [])
    for snapshot in found:
        found.extend(children.pop(snapshot["id"], ()))
    return found


COMMAND = Command(
    name="delete",
    description="""\
Delete a snapshot from all devices. Its children stay, and become its parent's; with --children they go too, and all
below them. If it was current, its parent is. The VM runs on as it is.""",
    arguments=arguments,
    act=act,
    usage="snaptree delete [-h] [--children] [--no-wait] [--json] VM (NAME | --id ID)",
    examples=("snaptree delete dev experiment", "snaptree delete dev experiment --children"),
)
