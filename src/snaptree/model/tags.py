"""The tag that a snapshot has in every qcow2 image: ``NAME@ID^PARENT-ID``.  Not for: QEMU's own snapshot ids.

QEMU cannot change a tag, so it holds name and parent as they were at creation.  With the longest name it has
202 bytes; QEMU cuts a tag silently at 255 (QEMU's ``QEMUSnapshotInfo.name`` has 256 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BadName
from .ids import is_id
from .names import check_name

TAG_MAX = 255


@dataclass(frozen=True, slots=True)
class Tag:
    """What a tag of ours says: the first name, the id, and the first parent's id (nil for a root)."""

    name: str
    id: str
    parent_id: str


def format_tag(name: str, id: str, parent_id: str) -> str:
    """Return the tag for a snapshot of this name, id and parent id.

    :raises BadName: where ``name`` may not be a name.
    :raises ValueError: where an id is not in canonical form.
    """
    check_name(name)
    if not (is_id(id) and is_id(parent_id)):
        raise ValueError(f"not an id: {id!r} or {parent_id!r}")
    return f"{name}@{id}^{parent_id}"


def parse_tag(text: str) -> Tag | None:
    """Return what a tag says, or ``None`` where it is not one of ours, to the letter."""
    name, at, rest = text.partition("@")
    id, caret, parent_id = rest.partition("^")
    if not (at and caret and is_id(id) and is_id(parent_id)):
        return None
    try:
        check_name(name)
    except BadName:
        return None
    return Tag(name, id, parent_id)
