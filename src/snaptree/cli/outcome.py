"""What a create or load has done, as it is printed.  Not for: doing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..model.snapshot import SnapshotJSON
from . import output
from .human import duration_text

if TYPE_CHECKING:
    from .source import Source

MEMBERS = tuple(name for name in SnapshotJSON.__annotations__ if name not in ("foreign", "problems", "children"))
"""The members of a snapshot, everywhere the same."""

RECENT = 64
"""How far back in history an operation that has just ended is looked for."""


def outcome(source: Source, action: str, data: Mapping[str, Any], which: Mapping[str, str]) -> dict[str, Any]:
    """Return the snapshot of an operation that has just ended, with ``duration_ms`` and ``pause_ms``.

    :param data: of the event that was published when it ended; it has the whole id.
    :param which: the name or id that the operation was asked for.
    """
    found = source.snapshot(**({"id": str(data["id"])} if data else which))
    entries = source.history(RECENT)
    entry: Mapping[str, Any] = next(
        (e for e in reversed(entries) if e["id"] == found["id"] and e["action"] == action), data
    )
    return {
        **{member: found[member] for member in MEMBERS},
        "duration_ms": entry.get("duration_ms", 0),
        "pause_ms": entry.get("pause_ms", 0),
    }


def last_event(events: Iterable[Mapping[str, Any]], event: str, which: Mapping[str, str] | None) -> Mapping[str, Any]:
    """Return the data of the last such event of a snapshot, or an empty mapping; other clients' come too.

    :param which: ``None`` for any snapshot.
    """
    found: Mapping[str, Any] = {}
    for candidate in events:
        data = candidate.get("data", {})
        if candidate.get("event") == event and (which is None or _is(data, which)):
            found = data
    return found


def short(id: str) -> str:
    """Return an id as it stands in a sentence: its first 8 digits."""
    return f"{id[:8]}…" if output.is_unicode() else f"{id[:8]}..."


def sentence(verb: str, done: Mapping[str, Any]) -> str:
    """Return the line that says what was done."""
    return (
        f"{verb} {done['name']} ({short(done['id'])}) in {duration_text(done['duration_ms'])},"
        f" VM paused {duration_text(done['pause_ms'])}"
    )


def stopped_sentence(verb: str, done: Mapping[str, Any]) -> str:
    """Return the line that says what was done on a VM that doesn't run."""
    return f"{verb} {done['name']} ({short(done['id'])}) in {duration_text(done['duration_ms'])}"


def _is(data: Mapping[str, Any], which: Mapping[str, str]) -> bool:
    if "id" in which:
        return str(data.get("id", "")).replace("-", "").startswith(which["id"].replace("-", "").lower())
    return data.get("name") == which["name"]
