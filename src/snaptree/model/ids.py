"""Ids of snapshots: version 4 UUIDs, and the prefixes that people type.  Not for: names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import AmbiguousId, NoSuchSnapshot, UsageError
from .names import printable

NIL = "00000000-0000-0000-0000-000000000000"
PREFIX_MIN = 8

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new random id, never used before."""
    import uuid  # noqa: PLC0415  costs milliseconds that a command which only reads need not spend

    return str(uuid.uuid4())


def is_id(text: str) -> bool:
    """Say whether ``text`` is an id in its canonical form (lower case, with hyphens)."""
    return _ID.fullmatch(text) is not None


def check_prefix(text: str) -> str:
    """Return the hexadecimal digits of an id or of a prefix of one.

    :raises UsageError: where it holds anything but hexadecimal digits and hyphens, or fewer than 8 digits.
    """
    digits = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        raise UsageError(
            f"{printable(text)} is no id and no prefix of one.",
            "An id is a UUID; `snaptree list --json` shows the ids.",
        )
    if len(digits) < PREFIX_MIN:
        raise UsageError(
            f"The id prefix {printable(text)} is too short.", f"Give at least {PREFIX_MIN} digits of the id."
        )
    return digits


def match_id(text: str, ids: Iterable[str]) -> str:
    """Return the one of ``ids`` that ``text``, a whole id or a prefix of at least 8 digits, stands for.

    :raises UsageError: where ``text`` is no prefix of an id.
    :raises AmbiguousId: where more than one of ``ids`` begins so.
    :raises NoSuchSnapshot: where none does.
    """
    digits = check_prefix(text)
    found = sorted(i for i in ids if i.replace("-", "").startswith(digits))
    if not found:
        raise NoSuchSnapshot(f"No snapshot has an id that begins with {printable(text)}.", "`snaptree list` shows all.")
    if len(found) > 1:
        raise AmbiguousId(
            f"{len(found)} snapshots have an id that begins with {printable(text)}: {', '.join(found[:4])}.",
            "Give more digits.",
        )
    return found[0]
