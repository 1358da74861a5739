"""Our commands and events in the form of ``query-qmp-schema``.  Not for: checking arguments.

A type is an object of members; ``?`` behind a member's name makes it optional, ``[T]`` is a list of T (QEMU's
docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection").  QEMU's own types keep their names; ours begin with
``Snaptree``, which no name of QEMU's masked schema (numbers) can be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .commands import COMMANDS, Command

Entry = dict[str, Any]

_SNAPSHOT = {
    "parent_name": "str",
    "parent_id": "str",
    "date": "int",
    "created": "str",
    "vm_clock": "int",
    "description": "str",
    "current": "bool",
    "consistent": "bool",
    "memory": "str",
    "vm_state_size": "int",
    "automatic": "bool",
    "devices": "[SnaptreeDevice]",
}
"""What a snapshot has in a list, and alone."""

TYPES: dict[str, dict[str, str]] = {
    "SnaptreeNothing": {},
    "SnaptreeDevice": {
        "device": "str",
        "node": "str",
        "file": "str",
        "present": "bool",
        "size": "int",
        "qemu_ids?": "[str]",
    },
    "SnaptreeSnapshot": {
        "name": "str",
        "id": "any",
        **_SNAPSHOT,
        "foreign?": "bool",
        "problems?": "[str]",
        "children?": "[SnaptreeSnapshot]",
    },
    "SnaptreeMachine": {"machine": "str", "ram_size": "int", "cpu": "str", "cpus": "int", "devices": "[str]"},
    "SnaptreeSnapshotInFull": {
        "name": "str",
        "id": "str",
        **_SNAPSHOT,
        "tag": "str",
        "vmstate_device": "str",
        "machine": "SnaptreeMachine",
        "memory_why": "str",
        "flaw": "str",
        "children": "[str]",
        "problems": "[str]",
    },
    "SnaptreeHistoryEntry": {
        "at": "str",
        "action": "str",
        "name": "str",
        "id": "str",
        "from": "str",
        "from_name": "str",
        "client": "str",
        "duration_ms": "number",
        "pause_ms": "number",
        "result": "str",
    },
    "SnaptreeCurrent": {"known": "bool", "name": "str", "id": "any", "why": "str"},
    "SnaptreeVM": {
        "name": "str",
        "state": "str",
        "run_state": "str",
        "qmp": "str",
        "qemu_pid": "any",
        "supervisor_pid": "int",
        "qemu_version": "str",
        "memory": "str",
        "memory_why": "str",
        "tracker": "any",
        "busy": "any",
    },
    "SnaptreeReason": {"code": "str", "device": "any", "message": "str", "remedy": "str"},
    "SnaptreeChanged": {"changed": "bool", "memory": "str", "current": "str", "reasons": "[SnaptreeReason]"},
    "SnaptreeStopped": {"kept": "any", "not_kept": "str"},
    "SnaptreeCheckedDevice": {"device": "str", "file": "str", "readable": "bool"},
    "SnaptreeCheckedPart": {
        "device": "str",
        "expected": "bool",
        "present": "bool",
        "count": "int",
        "qemu_id": "any",
        "created": "any",
        "vm_clock": "any",
        "vm_state_size": "any",
    },
    "SnaptreeCheckedSnapshot": {
        "name": "str",
        "id": "any",
        "tag": "str",
        "foreign": "bool",
        "memory": "str",
        "ok": "bool",
        "devices": "[SnaptreeCheckedPart]",
    },
    "SnaptreeFinding": {
        "severity": "str",
        "code": "str",
        "snapshot": "any",
        "id": "any",
        "device": "any",
        "message": "str",
        "remedy": "str",
    },
    "SnaptreeCheck": {
        "ok": "bool",
        "devices": "[SnaptreeCheckedDevice]",
        "snapshots": "[SnaptreeCheckedSnapshot]",
        "findings": "[SnaptreeFinding]",
    },
    "SnaptreeEvent": {"name": "str", "id": "str", "duration_ms": "number"},
    "SnaptreeLoaded": {"name": "str", "id": "str", "duration_ms": "number", "kept": "any", "not_kept": "str"},
    "SnaptreeFailure": {"name": "str", "id": "str", "duration_ms": "number", "operation": "str", "error": "str"},
}

RETURNS: dict[str, str] = {
    "query-snapshot-status": "any",
    "query-snapshots": "[SnaptreeSnapshot]",
    "query-snapshot": "SnaptreeSnapshotInFull",
    "query-snapshot-history": "[SnaptreeHistoryEntry]",
    "query-current-snapshot": "SnaptreeCurrent",
    "query-vm": "SnaptreeVM",
    "query-vm-changed": "SnaptreeChanged",
    "vm-stop": "SnaptreeStopped",
    "query-snapshot-check": "SnaptreeCheck",
}

EVENTS: dict[str, str] = {
    "SNAPSHOT_CREATED": "SnaptreeEvent",
    "SNAPSHOT_LOADED": "SnaptreeLoaded",
    "SNAPSHOT_DELETED": "SnaptreeEvent",
    "SNAPSHOT_RENAMED": "SnaptreeEvent",
    "SNAPSHOT_ADOPTED": "SnaptreeEvent",
    "SNAPSHOT_FAILED": "SnaptreeFailure",
}

_BUILTIN = {"str": "string", "int": "int", "number": "number", "bool": "boolean", "any": "value"}


def merge_commands(qemu: Iterable[Entry]) -> list[Entry]:
    """Return QEMU's answer to ``query-commands`` with ours in it, each name once."""
    entries = list(qemu)
    known = {entry["name"] for entry in entries}
    return [*entries, *({"name": name} for name in COMMANDS if name not in known)]


def merge_schema(qemu: Iterable[Entry]) -> list[Entry]:
    """Return QEMU's answer to ``query-qmp-schema`` with ours in it; a name that both have means ours."""
    ours = _entries()
    names = {entry["name"] for entry in ours if entry["meta-type"] in ("command", "event", "object")}
    kept = [entry for entry in qemu if entry["name"] not in names]
    known = {entry["name"] for entry in kept}
    return [*kept, *(entry for entry in ours if entry["name"] not in known)]


def _entries() -> list[Entry]:
    entries: list[Entry] = []
    lists: set[str] = set()
    for command in COMMANDS.values():
        arguments = f"SnaptreeArgumentsOf-{command.name}"
        entries.append(_object(arguments, _members(command), lists))
        returned = RETURNS.get(command.name, "SnaptreeNothing")
        if returned.startswith("["):
            lists.add(returned)
        entries.append(
            {
                "name": command.name,
                "meta-type": "command",
                "arg-type": arguments,
                "ret-type": returned,
                "allow-oob": False,
            }
        )
    entries += [_object(name, members, lists) for name, members in TYPES.items()]
    entries += [{"name": name, "meta-type": "event", "arg-type": data} for name, data in EVENTS.items()]
    entries += [{"name": name, "meta-type": "array", "element-type": name[1:-1]} for name in sorted(lists)]
    entries += [{"name": name, "meta-type": "builtin", "json-type": json} for name, json in _BUILTIN.items()]
    return entries


def _members(command: Command) -> dict[str, str]:
    return {name + "?" * argument.optional: argument.type for name, argument in command.arguments.items()}


def _object(name: str, members: dict[str, str], lists: set[str]) -> Entry:
    found = []
    for member, type in members.items():
        if type.startswith("["):
            lists.add(type)
        entry: Entry = {"name": member.removesuffix("?"), "type": type}
        if member.endswith("?"):
            entry["default"] = None
        found.append(entry)
    return {"name": name, "meta-type": "object", "members": found}
