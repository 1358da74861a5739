"""``snaptree delete``: take a snapshot off all devices.  Not for: how that is done."""

from __future__ import annotations

import argparse

from . import output, progress
from .changes import changing
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .human import counted, duration_text
from .outcome import short


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
    with changing(args.vm) as vm, progress.shown(f"deleting {args.name or args.id}"):
        done = vm.delete(chosen, children=args.children, wait=not args.no_wait)
    deleted, duration_ms = done["deleted"], done["duration_ms"]
    if args.json:
        output.document(done)
    else:
        more = f" and the {counted(len(deleted) - 1, 'snapshot')} below it" if len(deleted) > 1 else ""
        output.say(f"deleted {deleted[0]['name']} ({short(deleted[0]['id'])}){more} in {duration_text(duration_ms)}")
    return 0


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
