"""The rules for names of VMs and of snapshots.  Not for: looking a name up.

A bare word is always a name and never an id, so a name must not look like an id, nor like a value that
a QMP client (qmp-shell) would turn into a number or a boolean before it sends it.
"""

from __future__ import annotations

import re

from .errors import BadName

NAME_MAX = 128
VM_NAME_MAX = 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VM_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}")
_JSON_WORDS = frozenset({"true", "false", "null"})

SHAPE = "1 to 128 letters, digits, dots, underscores or hyphens, the first a letter or a digit"
VM_SHAPE = "1 to 63 lower-case letters, digits or hyphens, the first a letter or a digit"


def printable(text: str, limit: int = 80) -> str:
    """Return ``text`` quoted, with every control character and surrogate escaped, cut to ``limit`` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else ascii(c)[1:-1] for c in cut) + '"'


def is_number(text: str) -> bool:
    """Say whether a client could take ``text`` for a number (``1_000``, ``1e5``, ``0x10``, ``inf``)."""
    for convert in (float, lambda t: int(t, 0)):
        try:
            convert(text)
        except ValueError:
            continue
        return True
    return False


def check_name(name: str) -> str:
    """Return ``name`` if it may be a snapshot's name.

    :raises BadName: and says what is wrong with it and what would be right.
    """
    if not name:
        raise BadName("A snapshot's name is empty.", f"Give it {SHAPE}.")
    if len(name) > NAME_MAX:
        raise BadName(f"The name {printable(name)} has {len(name)} characters.", f"A name has {SHAPE}.")
    if not _NAME.fullmatch(name):
        raise BadName(f"{printable(name)} cannot be a snapshot's name.", f"A name has {SHAPE}.")
    if is_number(name):
        raise BadName(
            f"The name {printable(name)} is a number, and could be taken for an id.",
            f"Put a letter before it, for example {printable('s' + name)}.",
        )
    if _UUID.fullmatch(name):
        raise BadName(
            f"The name {printable(name)} has the form of an id.",
            "Choose a name that is no UUID; to name a snapshot by its id, use --id.",
        )
    if name.lower() in _JSON_WORDS:
        raise BadName(
            f"The name {printable(name)} is a word of JSON, which QMP clients send as a value.",
            f"Put something before it, for example {printable('s-' + name)}.",
        )
    return name


def check_vm_name(name: str) -> str:
    """Return ``name`` if it may be a VM's name.

    :raises BadName: and says what is wrong with it and what would be right.
    """
    if not _VM_NAME.fullmatch(name):
        raise BadName(f"{printable(name)} cannot be a VM's name.", f"A VM's name has {VM_SHAPE}.")
    return name
