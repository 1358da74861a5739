"""What ``undo`` goes back to, as a value.  Not for: going there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.ids import NIL


@dataclass(frozen=True, slots=True)
class Undo:
    """Where the VM was before its last load.

    :param id: the snapshot of that moment: the one that was taken of it, or the one that was current, where the VM had
        not run since.  Where that moment was discarded, the one that was current then; nil where there was none, empty
        where it was unknown.
    :param discarded: nothing was kept of that moment.
    """

    id: str
    discarded: bool = False

    @property
    def known(self) -> bool:
        """Whether a snapshot is named at all."""
        return self.id not in ("", NIL)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that :func:`read_undo` takes back."""
        return {"id": self.id, "discarded": self.discarded}


def read_undo(value: object) -> Undo | None:
    """Return what a JSON object says; ``None`` where there is none.

    :raises KeyError, ValueError: where it is no such object.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(value)
    found: Mapping[str, Any] = value
    return Undo(str(found["id"]), bool(found.get("discarded", False)))
