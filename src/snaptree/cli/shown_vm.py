"""A VM in full, for ``snaptree show VM``: its command line, the values in it, its places.  Not for: its snapshots."""

from __future__ import annotations

import shlex
from typing import Any

from ..places import forks
from ..places.files import read_json
from ..places.places import VMPlace
from ..qemu import fillings, placeholders
from .human import clean
from .paint import Line, Span
from .vms import vm


def describe(place: VMPlace) -> dict[str, Any]:
    """Return what ``show VM --json`` prints.

    :raises SnaptreeError: where ``command.json`` cannot be read.
    """
    recorded = read_json(place.command) or {}
    given = recorded.get("argv")
    argv = [str(word) for word in given] if isinstance(given, list) else []
    values = fillings.read_values(place)
    begun = forks.beginning(place)
    memory, disks = recorded.get("memory"), recorded.get("disks")
    return {
        **vm(place),
        "directory": str(place.directory),
        "argv": argv,
        "cwd": recorded.get("cwd"),
        "attached": recorded.get("attached"),
        "placeholders": {name: values[name] for name in placeholders.wanted(argv) if name in values},
        "memory": memory if isinstance(memory, dict) else None,
        "disks": disks if isinstance(disks, list) else [],
        "origin": None if begun is None else {"vm": begun.vm, "id": begun.id, "name": begun.name},
        "forks": sorted(name for names in forks.by_snapshot(place).values() for name in names),
    }


def render(told: dict[str, Any]) -> list[Line]:
    """Return the lines."""
    facts: list[tuple[str, list[str]]] = [
        ("state", [told["state"]]),
        ("fork of", [f"{told['origin']['vm']} at {told['origin']['name']}" if told["origin"] else ""]),
        ("forks", [", ".join(told["forks"])]),
        ("QMP", [told["qmp"] or ""]),
        ("QEMU", [f"pid {told['qemu_pid']}" if told["qemu_pid"] else ""]),
        ("folder", [told["directory"]]),
        ("directory", [told["cwd"] or ""]),
        ("attached to", [told["attached"] or ""]),
        ("RAM", _memory(told["memory"] or {})),
        ("placeholders", [f"{{{name}}} = {value}" for name, value in told["placeholders"].items()]),
        ("disks", [f"{disk.get('device')}: {disk.get('file')}" for disk in told["disks"]]),
        ("command line", _command(told["argv"])),
    ]
    shown = [(title, values) for title, values in facts if values and values[0]]
    room = max(len(title) for title, _ in shown)
    lines: list[Line] = [[(clean(told["name"]), "bold")]]
    for title, values in shown:
        for place, value in enumerate(values):
            head: Span = (f"  {'' if place else title:{room}}  ", "dim")
            lines.append([head, (clean(value), "")])
    return lines


def _memory(memory: dict[str, Any]) -> list[str]:
    way = {"pages": "in the page store", "full": "inside QEMU's own VM state"}.get(str(memory.get("way")), "")
    why = str(memory.get("why") or "")
    return [way, *([why] if why else [])] if way else []


def _command(argv: list[str]) -> list[str]:
    """Return the command line, an option with its argument on each line."""
    lines: list[str] = []
    for word in argv:
        if lines and not word.startswith("-") and lines[-1].startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(word if word.startswith("-") else shlex.quote(word))
    return lines
