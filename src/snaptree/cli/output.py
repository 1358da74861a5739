"""Standard output and standard error of every command.  Not for: what is said.

Data goes to standard output, all else to standard error; a reader that goes away early is no error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..model.errors import NotReady, SnaptreeError
from .human import clean, clean_lines
from .paint import Line, painted, plain

if TYPE_CHECKING:
    from .table import Table

FOLDED_ROWS_MAX = 200
"""Longer tables are not folded to a terminal's width; rich would take a second for 1,000 rows."""


def is_terminal() -> bool:
    """Say whether standard output may have colours: a terminal, neither NO_COLOR nor a dumb one."""
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "dumb") != "dumb"
    )


def is_unicode() -> bool:
    """Say whether standard output takes every character."""
    return sys.stdout is not None and (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def tick(*, good: bool) -> str:
    """Return the mark for yes and no."""
    return ("✓" if is_unicode() else "yes") if good else "no"


def write(text: str) -> None:
    """Write to standard output at once.

    :raises SystemExit: with code 1, where it cannot be written, for example for want of space; standard error says why.
    """
    if sys.stdout is None:
        return
    if not is_unicode():
        encoding = sys.stdout.encoding or "ascii"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        note(f"snaptree: Standard output cannot be written: {error.strerror}.")
        raise SystemExit(1) from error


def lines(lines: Iterable[Line]) -> None:
    """Print lines, with styles on a terminal."""
    write(painted(lines) if is_terminal() else plain(lines))


def table(table: Table) -> None:
    """Print a table, folded to the width of a terminal."""
    from .table import fitted, layout, wants_folding  # noqa: PLC0415  not every command has one

    if is_terminal() and len(table.rows) <= FOLDED_ROWS_MAX:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
        if wants_folding(table, columns):
            write(fitted(table, columns))
            return
    lines(layout(table))


def say(text: str) -> None:
    """Print one line."""
    write(clean(text) + "\n")


def document(value: object) -> None:
    """Print one JSON document: ASCII, so that no terminal acts upon it; on one line unless people read it."""
    readable = sys.stdout is not None and sys.stdout.isatty()
    write(json.dumps(value, indent=2 if readable else None) + "\n")


def note(text: str) -> None:
    """Print a line for people to standard error."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(clean(text) + "\n")
            sys.stderr.flush()
        except OSError:
            pass


def failure(error: SnaptreeError, *, as_json: bool) -> None:
    """Print an error: for people to standard error, or as the one JSON document."""
    reasons = error.reasons if isinstance(error, NotReady) else ()
    if as_json:
        value: dict[str, object] = {"code": error.code, "message": error.message, "remedy": error.remedy}
        if reasons:
            value["reasons"] = [reason.to_json() for reason in reasons]
        document({"error": value})
        return
    if not reasons:
        first, *others = clean_lines(error.message) or ["Failed."]
        note(f"snaptree: {first}")
        for line in (*others, *clean_lines(error.remedy)):
            note(f"  {line}")
        return
    # The message of such an error ends with its first reason, which is printed with the others.
    head = error.message.removesuffix(reasons[0].message).rstrip(" :")
    note(f"snaptree: {head}:")
    for reason in reasons:
        note(f"  {reason.device}: {reason.message}" if reason.device else f"  {reason.message}")
        if reason.remedy:
            note(f"    {reason.remedy}")


def finish() -> None:
    """Write what is left, quietly where nobody reads it any more."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()


def _discard_output() -> None:
    # Python would flush once more at its end, and complain.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass
