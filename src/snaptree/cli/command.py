"""What a command is, and the arguments that several have.  Not for: any one command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..model.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def __init__(self, **options: Any) -> None:
        # Nothing is guessed: --chil is not --children, whose subtree would be gone.
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """:raises UsageError: with argparse's words, and the usage as the remedy."""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"Usage: {usage}; `{self.prog} --help` says more.")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the command line.

    :param description: what it does, and what it leaves alone.
    :param arguments: adds its arguments to a parser.
    :param act: does it; returns the exit code.
    :param examples: command lines.
    :param usage: where argparse cannot make it.
    :param passes_on: what follows ``--`` is not ours; ``act`` finds it as ``args.words`` (``None`` without a ``--``).
    """

    name: str
    description: str
    arguments: Callable[[Parser], None]
    act: Callable[[argparse.Namespace], int]
    examples: tuple[str, ...] = ()
    usage: str | None = None
    passes_on: bool = False

    def parser(self) -> Parser:
        """Return the parser of its arguments."""
        parser = Parser(prog=f"snaptree {self.name}", **self.texts())
        self.arguments(parser)
        return parser

    def texts(self) -> dict[str, Any]:
        """Return what a parser says about the command."""
        examples = "".join(f"\n  {example}" for example in self.examples)
        return {
            "usage": self.usage,
            "description": self.description,
            "epilog": f"examples:{examples}" if examples else None,
        }


def add_vm(parser: Parser) -> None:
    """Add VM."""
    parser.add_argument("vm", metavar="VM", help="the VM's name")


def add_json(parser: Parser) -> None:
    """Add --json."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on standard output, also for a failure"
    )


def add_no_wait(parser: Parser) -> None:
    """Add --no-wait."""
    parser.add_argument(
        "--no-wait", action="store_true", help="be refused, instead of waiting, while another command works on the VM"
    )


def add_which(parser: Parser, metavar: str = "NAME") -> None:
    """Add the name of a snapshot, and --id in its place."""
    parser.add_argument("name", metavar=metavar, nargs="?", help="the snapshot's name; a bare word is always a name")
    parser.add_argument(
        "--id", metavar="ID", help=f"its id, or at least 8 digits that no other id begins with, instead of {metavar}"
    )


def which(args: argparse.Namespace, metavar: str = "NAME") -> dict[str, str]:
    """Return the member that names the snapshot in QMP: ``name`` or ``id``.

    :raises UsageError: where there is neither, or both.
    """
    name, id = args.name, args.id
    if name is not None and id is not None:
        raise UsageError(f"Both {metavar} and --id are given.", "Give one of the two.")
    if name is None and id is None:
        raise UsageError(
            f"Neither {metavar} nor --id ID is given.", "`snaptree list VM` shows the names, with --json the ids too."
        )
    return {"name": str(name)} if id is None else {"id": str(id)}
