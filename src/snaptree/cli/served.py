"""What ``run`` and ``attach`` say once a VM is served, and when it has ended.  Not for: serving it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from ..server.exchange import End, Ready


def detached(ready: Ready, *, as_json: bool) -> None:
    """Say that a VM is served by a process of its own."""
    notes(ready)
    if as_json:
        output.document(
            {
                "name": ready.name,
                "state": ready.state,
                "qmp": ready.qmp,
                "qemu_pid": ready.qemu_pid,
                "supervisor_pid": ready.supervisor_pid,
            }
        )
    else:
        output.say(f"{ready.name} is {ready.state}, served at {ready.qmp}")


def in_foreground(ready: Ready) -> None:
    """Say that a VM is served; QEMU has the terminal's standard output, so to standard error."""
    notes(ready)
    output.note(f"{ready.name} is {ready.state}, served at {ready.qmp}")


def ended(end: End) -> int:
    """Say how it ended; return the exit code."""
    output.note(end.words)
    return int(end.failed)


def notes(ready: Ready) -> None:
    """Print what else there is to know."""
    all_notes(ready.notes)


def all_notes(texts: Iterable[str]) -> None:
    """Print each on a line of its own."""
    for text in texts:
        output.note(text)
