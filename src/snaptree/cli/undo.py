"""``snaptree undo``: go back to where the VM was before its last load.  Not for: how that is done."""

from __future__ import annotations

import argparse

from .command import Command, Parser, add_json, add_no_wait, add_vm
from .keeping import add_keep
from .load import add_allow_resize, perform


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_keep(parser)
    add_allow_resize(parser)
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Go back, and say so."""
    return perform(args, None, f"undoing the last load of {args.vm}")


COMMAND = Command(
    name="undo",
    description="""\
Go back to where the VM was before its last load: to the automatic snapshot that the load took, or, where the VM had not
run since its current snapshot, to that one. It is a load itself, so a second undo undoes the first. Where the load
discarded what was before, undo is refused, and names the snapshot that was current then.""",
    arguments=arguments,
    act=act,
    examples=("snaptree undo dev",),
)
