"""Entries of history and journal, as values.  Not for: writing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..model.snapshot import iso_time

Operation = Literal[
    "create", "load", "delete", "rename", "describe", "repair", "adopt", "offline-create", "offline-load"
]
"""``offline-``: of a VM that doesn't run, for its images alone.  A delete is the same both ways."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of history: what was done, by whom, how long it took, and how it ended.

    :param from_id: the snapshot that was current before; empty where that was unknown, nil where there was none.
    :param from_name: its name at that moment.
    :param result: ``ok``, or what went wrong.
    """

    at_ns: int
    action: str
    name: str
    id: str
    from_id: str
    from_name: str
    client: str
    duration_ms: float = 0.0
    pause_ms: float = 0.0
    result: str = "ok"

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of the contract."""
        return {
            "at": iso_time(self.at_ns),
            "action": self.action,
            "name": self.name,
            "id": self.id,
            "from": self.from_id,
            "from_name": self.from_name,
            "client": self.client,
            "duration_ms": self.duration_ms,
            "pause_ms": self.pause_ms,
            "result": self.result,
        }


@dataclass(frozen=True, slots=True)
class Journal:
    """The operation that is under way, or was when its supervisor died.

    :param operation: create, load, delete, repair, adopt, offline-create, offline-load.
    :param step: ``planned``: not durable yet; ``begun``; ``writing``: RAM is being written, in the QEMU that runs;
        ``reverted``, and ``loaded`` where RAM and disks were looked at after it: QEMU has loaded, and whatever the
        disks say later, the load only ends; or ``reverting``: an offline load has begun to change images, and only
        goes on.
    :param plan: what is needed to finish or undo it.
    """

    operation: Operation
    started_ns: int
    client: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    step: str = "begun"
