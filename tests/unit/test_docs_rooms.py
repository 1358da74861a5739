"""docs/rooms.md lists every file of the source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "snaptree"
LINE = re.compile(r"^- `([\w/]+\.py)`: (.+)$", re.MULTILINE)
ROOMS = ["cli", "server", "engine", "memory", "qemu", "qcow2", "catalog", "places", "model"]


def listed() -> list[str]:
    text = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    return [match[1] for match in LINE.finditer(text)]


def test_every_file_is_listed_and_no_other() -> None:
    there = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    assert set(listed()) == there


def test_no_file_is_listed_twice() -> None:
    assert len(listed()) == len(set(listed()))


def test_the_drawing_holds_every_room() -> None:
    text = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    drawing = text.split("```text\n")[1].split("```")[0]
    assert [line.split()[0] for line in drawing.splitlines()] == ROOMS
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
