"""docs/guarantees.md names only tests that there are, and each of its tables' promises names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`((?:unit|crash|functional|fuzz|conformance)/[\w/]+\.py)(?:::(\w+))?`")


def document() -> str:
    return (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def promises() -> list[str]:
    """Return the rows of the tables whose last column is a test."""
    tables = re.findall(r"^\| promise \| shown by \|\n\|---\|---\|\n((?:\|.*\n)+)", document(), re.MULTILINE)
    assert len(tables) > 4
    return [row for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("row", promises(), ids=lambda row: str(row.split("|")[1].strip()[:60]))
def test_a_promise_is_shown_by_tests_that_there_are(row: str) -> None:
    named = TEST.findall(row)
    assert named, "no test shows it"
    for file, function in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"there is no {file}"
        if function:
            defined = {
                node.name for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)
            }
            assert function in defined, f"{file} has no {function}"
        else:
            assert path.name.startswith("test_")


def test_the_documents_that_it_points_to_are_there() -> None:
    for name in re.findall(r"\]\(([\w-]+\.md)\)", document()):
        assert (ROOT / "docs" / name).is_file(), name
