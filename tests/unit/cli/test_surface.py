"""What the package offers, and what it costs to look at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import snaptree
from snaptree.model.errors import all_errors


def python(code: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return done.stdout


def test_the_public_surface_is_exactly_all() -> None:
    before = "import json, types, snaptree; print(json.dumps([dir(snaptree), snaptree.__all__, list(vars(snaptree))]))"
    shown, public, present = json.loads(python(before))
    assert shown == sorted(public)
    assert len(set(public)) == len(public)
    # Nothing else lies about under a public name: neither imports, nor helpers, nor rooms.
    assert [name for name in present if not name.startswith("_")] == []
    for name in public:
        assert getattr(snaptree, name) is not None
    with pytest.raises(AttributeError):
        _ = snaptree.nothing_of_that_name


def test_every_error_is_public() -> None:
    named = {error.__name__ for error in all_errors()}
    assert named <= set(snaptree.__all__)


def test_importing_everything_gives_the_public_names_and_no_others() -> None:
    code = "import json; names = {}; exec('from snaptree import *', names); print(json.dumps(list(names)))"
    assert set(json.loads(python(code))) - {"__builtins__"} == set(snaptree.__all__)


HEAVY = {"asyncio", "sqlite3", "rich", "shtab", "socket", "subprocess", "importlib.metadata", "qemu"}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], set()),
        (["help", "create"], set()),
        (["create", "--help"], set()),
        (["lst"], set()),
        (["--version"], {"importlib.metadata", "socket"}),
        (["vms"], set()),
    ],
)
def test_a_command_imports_only_what_it_needs(words: list[str], allowed: set[str]) -> None:
    code = (
        "import contextlib, io, json, sys\n"
        "from snaptree.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    main({words!r})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert set(json.loads(python(code))) & HEAVY <= allowed


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, snaptree; print([name for name in sys.modules if name.startswith('snaptree.')])"
    assert python(code).strip() == "[]"
