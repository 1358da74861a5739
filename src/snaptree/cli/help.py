"""``snaptree help``: the same as ``--help``.  Not for: the manual, which is made from the same words."""

from __future__ import annotations

import argparse

from .command import Command, Parser


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument("about", metavar="COMMAND", nargs="?", help="the command to explain; all in short without it")


def act(args: argparse.Namespace) -> int:
    """Print it."""
    from .commands import find, whole_parser  # noqa: PLC0415  they import this file

    parser = find(args.about).parser() if args.about else whole_parser(arguments=False)
    parser.print_help()
    return 0


COMMAND = Command(
    name="help",
    description="Explain a command, or list all of them.",
    arguments=arguments,
    act=act,
    examples=("snaptree help create",),
)
