"""The lineage as a drawing.  Not for: what is said beside each snapshot.

A snapshot stands in the same column as its parent, right below it and what branches off; branches stand one column
further right.  The child with the most snapshots below it stays in the column, so that a line of thousands is one
column, and no drawing of n snapshots is wider than log2(n) columns.  Nothing here recurses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..model.snapshot import SnapshotJSON


@dataclass(frozen=True, slots=True)
class Strokes:
    """What a drawing is made of; all but the dots are two columns wide."""

    dot: str
    current: str
    branch: str
    beside: str


UNICODE = Strokes(dot="○", current="●", branch="├─", beside="│ ")
ASCII = Strokes(dot="o", current="*", branch="|-", beside="| ")


def draw(snapshots: Sequence[SnapshotJSON], strokes: Strokes) -> list[tuple[str, SnapshotJSON | None]]:
    """Return the lines from top to bottom: the drawing, and the snapshot at its end; ``None`` between two roots."""
    children, roots = _forest(snapshots)
    weights = _weights(children, roots)
    lines: list[tuple[str, SnapshotJSON | None]] = []
    for root in roots:
        if lines:
            lines.append(("", None))
        waiting = [(root, "", "")]
        while waiting:
            index, first, column = waiting.pop()
            dot = strokes.current if snapshots[index]["current"] else strokes.dot
            lines.append((first + dot, snapshots[index]))
            below = children[index]
            if not below:
                continue
            # Of two equal ones the newer goes on in the column.
            main = max(below, key=lambda i: (weights[i], i))
            waiting.append((main, column, column))
            waiting.extend((i, column + strokes.branch, column + strokes.beside) for i in reversed(below) if i != main)
    return lines


def _forest(snapshots: Sequence[SnapshotJSON]) -> tuple[list[list[int]], list[int]]:
    """Return the children of each snapshot and the roots, as indices; a lost parent makes a root, a ring too."""
    index_of = {s["id"]: i for i, s in enumerate(snapshots)}
    parents = [index_of.get(s["parent_id"], -1) for s in snapshots]
    children: list[list[int]] = [[] for _ in snapshots]
    for index, parent in enumerate(parents):
        if parent >= 0 and parent != index:
            children[parent].append(index)
    roots = [i for i, parent in enumerate(parents) if parent in (-1, i)]
    seen = set(_reach(children, roots))
    for index in range(len(snapshots)):
        if index not in seen:
            children[parents[index]].remove(index)
            roots.append(index)
            seen.update(_reach(children, [index]))
    return children, sorted(roots)


def _reach(children: Sequence[Sequence[int]], roots: Sequence[int]) -> list[int]:
    """Return what is below ``roots``, parents first."""
    order = list(roots)
    for index in order:
        order.extend(children[index])
    return order


def _weights(children: Sequence[Sequence[int]], roots: Sequence[int]) -> list[int]:
    """Return how many snapshots there are from each one down, itself included."""
    weights = [1] * len(children)
    for index in reversed(_reach(children, roots)):
        weights[index] += sum(weights[child] for child in children[index])
    return weights
