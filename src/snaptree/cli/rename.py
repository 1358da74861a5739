"""``snaptree rename``: give a snapshot another name.  Not for: its id and its tag, which stay."""

from __future__ import annotations

import argparse

from . import output, progress
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .outcome import MEMBERS
from .source import opened


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser, "OLD")
    parser.add_argument("new_name", metavar="NEW", help="the new name, unique in the VM")
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Rename it, and say so."""
    chosen = which(args, "OLD")
    with opened(args.vm) as source, progress.shown(f"renaming {args.name or args.id}"):
        before = source.snapshot(**chosen)
        source.rename(args.new_name, wait=not args.no_wait, **chosen)
        after = source.snapshot(id=before["id"])
    if args.json:
        output.document({member: after[member] for member in MEMBERS})
    else:
        output.say(f"renamed {before['name']} to {after['name']}")
    return 0


COMMAND = Command(
    name="rename",
    description="Give a snapshot another name. Its id stays. Works on a stopped VM too.",
    arguments=arguments,
    act=act,
    usage="snaptree rename [-h] [--no-wait] [--json] VM (OLD | --id ID) NEW",
    examples=("snaptree rename dev experiment experiment-1", "snaptree rename dev --id 3fab28c9 experiment-1"),
)
