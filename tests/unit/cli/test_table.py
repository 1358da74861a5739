from __future__ import annotations

import re

from snaptree.cli.paint import painted, plain
from snaptree.cli.table import Column, Table, fitted, layout, wants_folding

COLUMNS = (Column("NAME"), Column("SIZE", right=True), Column("TEXT", folds=True))
ROWS = [[("a", ""), ("9 B", ""), ("one", "dim")], [("long-name", "bold"), ("10.0 GiB", ""), ("two words" * 20, "")]]


def test_columns_are_aligned_and_numbers_end_together() -> None:
    lines = plain(layout(Table(COLUMNS, ROWS))).splitlines()
    assert lines[:2] == ["NAME           SIZE  TEXT", "a               9 B  one"]


def test_nothing_is_cut_and_nothing_hangs_at_the_end() -> None:
    text = plain(layout(Table(COLUMNS, ROWS)))
    assert "two words" * 20 in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_wide_characters_do_not_shift_the_next_column() -> None:
    rows = [[("全角", ""), ("1 B", ""), ("x", "")], [("abcd", ""), ("1 B", ""), ("x", "")]]
    lines = plain(layout(Table(COLUMNS, rows))).splitlines()
    assert lines[1:] == ["全角   1 B  x", "abcd   1 B  x"]


def test_styles_do_not_change_what_is_said() -> None:
    lines = layout(Table(COLUMNS, ROWS))
    text = re.sub(r"\x1b\[[0-9;]*m", "", painted(lines))
    assert [line.rstrip() for line in text.splitlines()] == plain(lines).splitlines()


def test_a_narrow_terminal_folds_and_cuts_nothing() -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", fitted(Table(COLUMNS, ROWS), 60))
    assert max(map(len, text.splitlines())) <= 60
    assert "".join(line[21:] for line in text.splitlines()[2:]).replace(" ", "") == "twowords" * 20


def test_only_what_folding_makes_fit_is_folded() -> None:
    short = Table(COLUMNS, ROWS[:1])
    long = Table(COLUMNS, ROWS)
    never = Table((*COLUMNS[:2], Column("TEXT")), ROWS)
    assert [wants_folding(long, columns) for columns in (44, 45, 200, 201)] == [False, True, True, False]
    assert not wants_folding(short, 60)
    assert not wants_folding(never, 60)


def test_markup_of_rich_is_only_text() -> None:
    assert "[bold]x[/bold]" in fitted(Table(COLUMNS, [[("[bold]x[/bold]", ""), ("", ""), ("", "")]]), 80)
