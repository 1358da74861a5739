"""No module of the source needs itself, not even by an import within a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import snaptree

ROOT = Path(snaptree.__path__[0])


def name_of(path: Path) -> str:
    """Return a module's name."""
    words = ("snaptree", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


FORKS_SERVE = "snaptree.server"
"""A fork is served as its source is, within whose server it was asked for: the one circle."""
MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Yield every import from a module, but for those that only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom):
            yield child
        if not isinstance(child, ast.expr):  # in an expression there is none
            yield from imports(child)


def needed_by(name: str) -> set[str]:
    """Return the modules of ours that a module imports; a package that is only on the way does not count."""
    path = MODULES[name]
    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for one in imports(ast.parse(path.read_text())):
        start = parts[: len(parts) - one.level + 1] if one.level else []
        base = ".".join([*start, *(one.module or "").split(".")]).strip(".")
        for alias in one.names:
            found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base)
    return (found & set(MODULES)) - {name}


def test_no_module_needs_itself() -> None:
    graph = {name: needed_by(name) for name in MODULES if not name.startswith(FORKS_SERVE)}
    assert sum(map(len, graph.values())) > len(graph)  # they were found
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' needs '.join(reversed(error.args[1]))}") from None
