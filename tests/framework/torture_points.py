"""Which operations come by at which trace point.  Not for: what happens there."""

from __future__ import annotations

from dataclasses import dataclass

from .faults import trace_points


@dataclass(frozen=True, slots=True)
class Point:
    """A trace point, and the operations in which it may be passed.

    :param pages: only where RAM is kept in pages.
    """

    name: str
    operations: tuple[str, ...]
    pages: bool = False


_BY_ROOM = {
    "create": ("create",),
    "load": ("load", "load", "undo"),
    "delete": ("delete",),
    "memory/writer.py": ("create",),
    "memory/delete.py": ("delete",),
    "memory/cleaning.py": ("create", "delete"),
}
_STOPPED = {
    "offline-create": ("create",),
    "offline-load": ("load",),
    "offline-delete": ("delete",),
    "adopt": ("adopt",),
    "repair": ("repair",),
}
_PAGES = ("create.marked", "create.copied", "create.kept", "delete.freed", "load.ram")
_REPAIRS = ("rebuild-catalog",)
ELSEWHERE = frozenset(
    {"repair.freed", "repair.rewrite-lineage.written", "repair.add-snapshot.lineage", "repair.mark.lineage"}
    | {"repair.remove-remnant.begun", "repair.removed", "repair.reverted", "stop.kept"}
    | {"resume.mapping", "resume.mapped"}
)
"""Points that need damage of their own, and die in tests of their own."""


def _points() -> tuple[tuple[Point, ...], tuple[Point, ...], tuple[str, ...]]:
    """Return the points of a VM that runs, those of one that doesn't, and those that nothing here comes by."""
    running, stopped, rest = [], [], []
    for name, file in trace_points().items():
        family = name.partition(".")[0]
        if name in ELSEWHERE:
            continue
        if "{" in name:
            stopped += [Point(name.replace("{step.kind}", kind), _STOPPED[family]) for kind in _REPAIRS]
        elif family in _STOPPED:
            stopped.append(Point(name, _STOPPED[family]))
        elif found := _BY_ROOM.get(family) or _BY_ROOM.get(file):
            running.append(Point(name, found, family == "pages" or name in _PAGES))
        else:
            rest.append(name)
    return tuple(running), tuple(stopped), tuple(rest)


RUNNING, STOPPED, UNKNOWN = _points()
