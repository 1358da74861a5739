"""Placeholders in a QEMU command line, each filled for every VM with a value of its own.  Not for: choosing values.

====================  =========================================================
``{vm}``              the VM's name
``{dir}``             a directory of the VM's own, for sockets and files
``{port:NAME}``       a free port
``{mac:NAME}``        a MAC address
``{cid}``             a context id for vsock
====================  =========================================================

NAME tells several apart; the same twice is the same value.  A placeholder may stand anywhere in a word, in JSON too.
``{{vm}}`` stands for the text ``{vm}``.  All other braces stay as they are: JSON's, ``${...}``, ``{}``.  What has a
placeholder's form and is none (``{prot:ssh}``) is an error, because QEMU would take it for text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from ..model.errors import UsageError
from ..model.names import printable

Values: TypeAlias = Mapping[str, str | int]
"""The value of each placeholder, by its text between the braces, for example ``port:ssh``."""

VM: Final = "vm"
DIR: Final = "dir"
CID: Final = "cid"
PORT: Final = "port:"
MAC: Final = "mac:"

FORMS: Final = "{vm}, {dir}, {port:NAME}, {mac:NAME} and {cid}"

# No JSON object, and nothing that QEMU's own options know, has this form: a member's name is quoted in JSON.
# iPXE and shells have ${...}, which is theirs.
_LIKE = re.compile(
    r"\{\{(?P<literal>[A-Za-z]+(?::[^\s{}\"',=]*)?)\}\}|(?<!\$)\{(?P<name>[A-Za-z]+(?::[^\s{}\"',=]*)?)\}"
)
_KNOWN = re.compile(r"vm|dir|cid|(?:port|mac):[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")


def wanted(argv: Iterable[str]) -> tuple[str, ...]:
    """Return the placeholders of a command line, each once, in the order in which they come.

    :raises UsageError: where something has a placeholder's form and is none.
    """
    found: dict[str, None] = {}
    for word in argv:
        for match in _LIKE.finditer(word):
            if match["name"] is not None:
                found[_checked(match["name"], word)] = None
    return tuple(found)


def fill(argv: Sequence[str], values: Values) -> list[str]:
    """Return the command line with every placeholder's value in its place.

    :raises UsageError: where something has a placeholder's form and is none.
    :raises KeyError: where ``values`` has no value for one that ``wanted`` names.
    """

    def filled(word: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match["literal"] is not None:
                return f"{{{match['literal']}}}"
            return str(values[_checked(match["name"], word)])

        return _LIKE.sub(value, word)

    return [filled(word) for word in argv]


def escaped(argv: Iterable[str]) -> list[str]:
    """Return the command line that ``fill`` makes these words of: for one that was found and not written by a user."""

    def double(match: re.Match[str]) -> str:
        return f"{{{match[0]}}}"

    return [_LIKE.sub(double, word) for word in argv]


def _checked(name: str, word: str) -> str:
    if not _KNOWN.fullmatch(name):
        raise UsageError(
            f"{{{name}}} in {printable(word)} is no placeholder.",
            f"There are {FORMS}, where NAME has letters, digits, dots, underscores or hyphens;"
            f" for the text itself write {{{{{name}}}}}.",
        )
    return name
