"""docs/qemu-traps.md lists every reason code of the source, with its remedy."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from snaptree.model.errors import VMNotRunning, all_errors
from snaptree.qemu.capabilities import BREAKS_LOAD, BREAKS_SAVE

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "snaptree"
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)

# Here a reason's code is that of an error: the one that says that nobody supervises the VM.
CODES_OF_ERRORS = {
    "cli/status.py": {VMNotRunning.code},
    "qemu/copies.py": {
        *("fork-client", "fork-descriptor", "fork-file", "fork-host-device", "fork-interface", "fork-port"),
        "fork-socket",
    },
}


def document() -> str:
    return (ROOT / "docs" / "qemu-traps.md").read_text(encoding="utf-8")


def rows() -> list[tuple[str, ...]]:
    return [match.groups() for match in ROW.finditer(document().split("\n## All codes\n")[1])]


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Yield the calls of a function, but for those that take everything from a mapping."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name):
            continue
        if all(word.arg is not None for word in node.keywords):
            yield node


def code_of(call: ast.Call) -> ast.expr:
    return call.args[0] if call.args else next(word.value for word in call.keywords if word.arg == "code")


def codes_in(path: Path) -> Iterator[str]:
    source = path.read_bytes()
    if b"Reason" not in source:
        return
    relative = path.relative_to(SOURCE).as_posix()
    tree = ast.parse(source)
    makers = ["Reason"]
    # A function that hands its first parameter on to Reason makes reasons, too.
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.args.args:
            first = function.args.args[0].arg
            if any(isinstance(c := code_of(call), ast.Name) and c.id == first for call in calls(function, "Reason")):
                makers.append(function.name)
    for maker in makers:
        for call in calls(tree, maker):
            code = code_of(call)
            if isinstance(code, ast.Constant):
                yield str(code.value)
            elif "'code'" in ast.unparse(code):
                continue  # one that came as JSON
            elif not (isinstance(code, ast.Name) and len(makers) > 1):
                assert relative in CODES_OF_ERRORS, f"{relative}:{call.lineno}: write a reason's code as a literal"
                yield from CODES_OF_ERRORS[relative]


@functools.cache
def codes() -> frozenset[str]:
    return frozenset({code for path in SOURCE.rglob("*.py") for code in codes_in(path)})


def test_the_table_has_every_code_and_no_other() -> None:
    assert {row[0] for row in rows()} == codes()


def test_the_table_is_sorted_and_has_each_code_once() -> None:
    listed = [row[0] for row in rows()]
    assert listed == sorted(set(listed))


def test_every_row_says_what_it_stands_against() -> None:
    assert {word for row in rows() for word in row[1].split(", ")} <= {"take", "load", "adopt", "run", "fork", "advice"}


def test_the_text_names_only_codes_that_exist() -> None:
    text = document().split("\n## All codes\n")[0]
    after_snaptree = re.findall(r"\*\*snaptree:\*\*(.*?)(?:\n\n|$)", text, re.DOTALL)
    named = {word for part in after_snaptree for word in re.findall(r": ((?:`[a-z0-9-]+`(?:, )?)+)", part)}
    known = codes() | {error.code for error in all_errors()}
    assert {word for group in named for word in re.findall(r"`([a-z0-9-]+)`", group)} <= known


def test_the_text_names_every_capability_that_is_refused() -> None:
    part = document().split("### Migration capabilities\n")[1].split("\n### ")[0]
    refused = part.split("**snaptree:**")[1]
    assert {*BREAKS_SAVE, *BREAKS_LOAD} == set(re.findall(r"`([a-z0-9-]+)`", refused)) - codes()
