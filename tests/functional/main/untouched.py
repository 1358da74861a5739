"""That a refusal changes nothing: images, catalog and lineage byte for byte.  Not for: the content of any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.traps.safety import image_bytes, run_state


def everything(vm: TestVM) -> dict[str, object]:
    """Return what a VM consists of: each image, catalog and lineage, by name."""
    # SQLite keeps what is not folded into the catalog yet in the -wal file.
    paths = [vm.home / "vms" / vm.name / name for name in ("catalog.sqlite", "catalog.sqlite-wal", "lineage")]
    return {**image_bytes(vm), **{path.name: path.read_bytes() if path.exists() else None for path in paths}}


@contextmanager
def untouched(vm: TestVM, client: QMPClient) -> Iterator[None]:
    """Make sure that the VM is the same afterwards, byte for byte, and ran all the time."""
    assert run_state(client) == "running"
    before, since = everything(vm), len(client.events)
    yield
    after = everything(vm)
    assert [name for name in before if after[name] != before[name]] == []
    assert run_state(client) == "running"
    assert client.events[since:] == []


def fails(vm: TestVM, *args: str, code: int) -> str:
    """Run a command that must fail with this exit code; return its message.

    It must say a sentence and a remedy, on standard error alone, with no control characters.
    """
    done = vm.cli(*args, check=False)
    told = f"{args}: {done}"
    assert done.returncode == code, told
    assert done.stdout == "", told
    lines = done.stderr.splitlines()
    assert lines[0].startswith("snaptree: "), told
    assert len(lines) > 1, told
    assert lines[0].endswith((".", ":")) or "It said: " in lines[0], told
    assert lines[-1].endswith((".", "?", "…")), told
    assert all(line.isprintable() for line in lines), told
    return done.stderr


def fails_json(vm: TestVM, *args: str, code: int) -> dict[str, Any]:
    """Run a command with --json that must fail with this exit code; return the error, the one document that it says."""
    done = vm.cli(args[0], "--json", *args[1:], check=False)
    told = f"{args}: {done}"
    assert done.returncode == code, told
    assert done.stderr == "", told
    document = json.loads(done.stdout)
    assert list(document) == ["error"], told
    error = document["error"]
    assert isinstance(error, dict)
    assert {"code", "message", "remedy"} <= set(error), told
    assert error["message"].endswith(".") or "It said: " in error["message"], told
    assert error["remedy"].endswith((".", "?", "…")), told
    return error
