"""A table: aligned columns, nothing cut.  Not for: what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .human import width
from .paint import RICH, Line, Span

GAP = "  "

FOLDED_MIN = 24
"""Columns of a terminal; what is folded more narrowly cannot be read, and is better left to the terminal."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    :param right: its cells are numbers, and end at the same place.
    :param folds: its cells may go over several lines where a terminal is narrow; for the last column only.
    """

    title: str
    right: bool = False
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; every row has one span for each column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Span]]


def layout(table: Table) -> list[Line]:
    """Return the table as lines, the titles first; the last column is as long as it is."""
    rows: list[Sequence[Span]] = [[(column.title, "bold") for column in table.columns], *table.rows]
    sizes = [[width(text) for text, _ in row] for row in rows]
    widths = [max(column) for column in zip(*sizes, strict=True)]
    lines: list[Line] = []
    for row, row_sizes in zip(rows, sizes, strict=True):
        line: list[Span] = []
        for column, (text, style), size, room in zip(table.columns, row, row_sizes, widths, strict=True):
            pad = " " * (room - size)
            line.extend(((pad, ""), (text, style)) if column.right else ((text, style), (pad, "")))
            line.append((GAP, ""))
        while line and not line[-1][0].strip():
            line.pop()
        lines.append(line)
    return lines


def wants_folding(table: Table, columns: int) -> bool:
    """Say whether the last column folded makes the table fit into so many columns, and nothing less does."""
    if not table.columns[-1].folds:
        return False
    lines = [sum(width(text) for text, _ in line) for line in layout(table)]
    others = [sum(width(text) for text, _ in line) for line in layout(Table(table.columns[:-1], _without_last(table)))]
    return max(lines) > columns >= max(others) + len(GAP) + FOLDED_MIN


def fitted(table: Table, columns: int) -> str:
    """Return the table for a terminal of so many columns, with styles and with its last column folded."""
    import io  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415  60 ms that only a terminal needs
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rich = RichTable(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for column in table.columns:
        rich.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(*(Text(text, style=RICH.get(style, "")) for text, style in row))
    buffer = io.StringIO()
    Console(file=buffer, force_terminal=True, width=columns, highlight=False).print(rich)
    return "".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def _without_last(table: Table) -> list[Sequence[Span]]:
    return [row[:-1] for row in table.rows]
