"""A reason: why a VM cannot be snapshotted, or a snapshot not be loaded, now.  Not for: finding reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class ReasonJSON(TypedDict):
    """A reason as ``query-snapshot-status`` prints it."""

    code: str
    device: str | None
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, with its remedy.

    :param code: stable, lower case, with hyphens; programs may compare it.
    :param message: a sentence that says what is in the way, with the value.
    :param remedy: a sentence that says what to do.
    :param device: the device that it is about; ``None`` where it is about the whole VM.
    """

    code: str
    message: str
    remedy: str
    device: str | None = None

    def to_json(self) -> ReasonJSON:
        """Return the JSON object of the contract."""
        return {"code": self.code, "device": self.device, "message": self.message, "remedy": self.remedy}
