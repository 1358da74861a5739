from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snaptree.cli.graph import ASCII, UNICODE, draw
from snaptree.model.snapshot import SnapshotJSON


def drawing(parents: dict[str, str], current: str = "") -> str:
    """Draw snapshots, oldest first, given the parent of each."""
    snapshots = [made(name, parent, current == name) for name, parent in parents.items()]
    return "\n".join(f"{lines} {s['name']}" if s else lines for lines, s in draw(snapshots, UNICODE))


def made(name: str, parent: str, current: bool = False) -> SnapshotJSON:
    return {"name": name, "id": name, "parent_id": parent, "current": current}  # type: ignore[typeddict-item]


def test_the_inheritance_that_dates_do_not_show_is_seen() -> None:
    # savevm a, b, c, d, loadvm b, savevm e
    assert drawing({"a": "", "b": "a", "c": "b", "d": "c", "e": "b"}, "e") == "○ a\n○ b\n├─● e\n○ c\n○ d"


def test_branches_of_branches_stand_further_right() -> None:
    line = {"g": "b", "h": "g", "i": "h", "j": "i", "k": "j"}
    text = drawing({"a": "", "b": "a", "c": "a", "d": "c", "e": "c", "f": "c", **line})
    assert text == "\n".join(["○ a", "├─○ c", "│ ├─○ d", "│ ├─○ e", "│ ○ f", "○ b", "○ g", "○ h", "○ i", "○ j", "○ k"])


def test_roots_are_apart() -> None:
    assert drawing({"a": "", "b": "", "c": "b"}) == "○ a\n\n○ b\n○ c"


def test_a_snapshot_whose_parent_is_lost_is_a_root() -> None:
    assert drawing({"a": "", "b": "gone"}) == "○ a\n\n○ b"


def test_a_ring_of_parents_is_drawn_and_does_not_hang() -> None:
    assert drawing({"a": "b", "b": "a", "c": "c"}) == "○ a\n○ b\n\n○ c"


def test_ascii_has_strokes_of_its_own() -> None:
    snapshots = [made("a", ""), made("b", "a", True), made("c", "a"), made("d", "b")]
    assert [line for line, _ in draw(snapshots, ASCII)] == ["o", "|-o", "*", "o"]


def test_a_line_of_thousands_is_one_column() -> None:
    snapshots = [made(str(i), str(i - 1)) for i in range(5000)]
    assert [line for line, _ in draw(snapshots, UNICODE)] == ["○"] * 5000


parents_of_forests = st.lists(st.integers(min_value=0), max_size=60).map(
    # The parent of number i is one of 0 (none), 1 … i.
    lambda numbers: [number % (i + 1) for i, number in enumerate(numbers)]
)


@given(parents_of_forests)
def test_every_snapshot_is_drawn_once_and_its_parent_can_be_read_off(parents: list[int]) -> None:
    snapshots = [made(str(i), str(parent)) for i, parent in enumerate(parents, 1)]
    read: dict[str, str] = {}
    last_in_column: dict[int, str] = {}
    for line, snapshot in draw(snapshots, UNICODE):
        if snapshot is None:
            last_in_column.clear()
            continue
        column = len(line) // 2
        branches_off = line[:-1].endswith(UNICODE.branch)
        name = snapshot["name"]
        read[name] = last_in_column.get(column - 1 if branches_off else column, "0")
        last_in_column[column] = name
    assert read == {str(i): str(parent) for i, parent in enumerate(parents, 1)}


@given(parents_of_forests)
def test_no_drawing_is_wider_than_the_logarithm(parents: list[int]) -> None:
    snapshots = [made(str(i), str(parent)) for i, parent in enumerate(parents, 1)]
    widths = [len(line) // 2 for line, _ in draw(snapshots, UNICODE)]
    assert 2 ** max(widths, default=0) <= max(1, len(parents))
