"""Whether a load keeps the present: two words for it, and a question where neither is given.  Not for: keeping it."""

from __future__ import annotations

import argparse
import sys

from ..model.errors import Refused, UsageError
from .changes import Changer
from .command import Parser


def add_keep(parser: Parser) -> None:
    """Add --keep and --discard."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--keep",
        action="store_const",
        const=True,
        dest="keep",
        help="take an automatic snapshot first, where the VM has run since its current one",
    )
    words.add_argument(
        "--discard",
        action="store_const",
        const=False,
        dest="keep",
        help="throw away what the VM has become since its current snapshot",
    )


def keep_wanted(args: argparse.Namespace, vm: Changer) -> bool | None:
    """Return whether the present shall be kept; ``None`` where the VM decides, or there is nothing to keep.

    Where keeping takes seconds a terminal is asked.

    :raises UsageError: where there is no terminal to ask.
    :raises Refused: where the answer is that nothing shall be done.
    """
    if args.keep is not None:
        return bool(args.keep)
    if not vm.running:
        return None
    present = vm.present(wait=not args.no_wait)
    if not present["changed"] or present["memory"] != "full" or present["reasons"]:
        return None
    since = f" since {present['current']}" if present["current"] else ""
    if not _is_terminal():
        raise UsageError(
            f"{args.vm} has run{since}, and to keep how it is now takes seconds, as its RAM is kept in full.",
            "Say which: --keep takes an automatic snapshot first, --discard throws it away.",
        )
    answer = _ask(f"{args.vm} has run{since}. Keep how it is now, which takes seconds? [Y/n/q] ")
    if answer in ("", "y", "yes"):
        return True
    if answer in ("n", "no"):
        return False
    raise Refused("Nothing was done.", "Say --keep or --discard, or answer y or n.")


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def _ask(question: str) -> str:
    """Return the answer in lower case; ``q`` at the end of input."""
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip().lower() if line else "q"
