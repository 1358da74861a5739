"""Snapshots as rows and as JSON, for the catalog and the lineage file.  Not for: the JSON of the contract."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from ..model.snapshot import Device, Machine, Snapshot

COLUMNS = tuple(field.name for field in fields(Snapshot))
_KNOWN_ROWS = 1024
"""So many rows are not parsed again: each operation reads the same few, several times."""


def to_row(snapshot: Snapshot) -> tuple[object, ...]:
    """Return the values of :data:`COLUMNS`."""
    record = to_record(snapshot)
    record["devices"] = json.dumps(record["devices"])
    record["machine"] = json.dumps(record["machine"])
    record["automatic"] = int(snapshot.automatic)
    return tuple(record[column] for column in COLUMNS)


@lru_cache(maxsize=_KNOWN_ROWS)
def from_row(row: tuple[Any, ...]) -> Snapshot:
    """Return the snapshot of a row of :data:`COLUMNS`."""
    record = dict(zip(COLUMNS, row, strict=True))
    record["devices"] = json.loads(record["devices"])
    record["machine"] = json.loads(record["machine"])
    return from_record(record)


def to_record(snapshot: Snapshot) -> dict[str, Any]:
    """Return a JSON object that :func:`from_record` takes back."""
    return asdict(snapshot)


def from_record(record: dict[str, Any]) -> Snapshot:
    """Return the snapshot of a JSON object.

    :raises KeyError, TypeError, ValueError: where it isn't one.
    """
    machine = dict(record["machine"])
    machine["devices"] = tuple(machine["devices"])
    values = {column: record[column] for column in COLUMNS if column in record}
    values["devices"] = tuple(Device(**device) for device in record["devices"])
    values["machine"] = Machine(**machine)
    values["automatic"] = bool(record.get("automatic", False))
    return Snapshot(**values)
