"""``snaptree describe``: give a snapshot another description.  Not for: showing it."""

from __future__ import annotations

import argparse

from . import output, progress
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .outcome import MEMBERS
from .source import opened


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    parser.add_argument("description", metavar="TEXT", help="the new description; '' takes it away")
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Describe it, and say so."""
    chosen = which(args)
    with opened(args.vm) as source, progress.shown(f"describing {args.name or args.id}"):
        source.describe(args.description, wait=not args.no_wait, **chosen)
        after = source.snapshot(**chosen)
    if args.json:
        output.document({member: after[member] for member in MEMBERS})
    else:
        output.say(f"described {after['name']}")
    return 0


COMMAND = Command(
    name="describe",
    description="Give a snapshot another description, in place of the one it has. Works on a stopped VM too.",
    arguments=arguments,
    act=act,
    usage="snaptree describe [-h] [--no-wait] [--json] VM (NAME | --id ID) TEXT",
    examples=('snaptree describe dev before-upgrade "clean install, all updates"',),
)
