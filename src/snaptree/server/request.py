"""What a QMP message asks, checked in QEMU's order and words.  Not for: executing it.

The checks of a message's members are those of ``qapi/qmp-dispatch.c``, the checks of arguments those of the code
that QAPI generates: each argument in the order of the schema, then the first one that the schema doesn't know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GENERIC_ERROR: Final = "GenericError"
COMMAND_NOT_FOUND: Final = "CommandNotFound"


class QMPError(Exception):
    """An error reply in QMP's own words.

    :param error_class: ``GenericError`` or ``CommandNotFound``.
    :param id_present: the message had an ``id``, which the reply gives back.
    """

    def __init__(self, error_class: str, desc: str, *, id_present: bool = False, id: object = None) -> None:
        super().__init__(desc)
        self.error_class = error_class
        self.desc = desc
        self.id_present = id_present
        self.id = id


@dataclass(frozen=True, slots=True)
class Request:
    """A command to execute.

    :param arguments: empty where the message has none.
    """

    command: str
    arguments: dict[str, Any]
    id_present: bool
    id: object


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a command of ours.

    :param type: QAPI's name of it: ``str``, ``bool``, ``int`` (signed, 64 bits), ``number``, ``any``, or ``[str]``.
    """

    type: str
    optional: bool = False


def check_request(value: object) -> Request:
    """Return what a message asks.

    :raises QMPError: where it is no command.
    """
    if not isinstance(value, dict):
        raise QMPError(GENERIC_ERROR, "QMP input must be a JSON object")
    id_present, id = "id" in value, value.get("id")
    command, arguments = value.get("execute"), value.get("arguments", {})
    known = id_present + ("execute" in value) + ("arguments" in value)
    if isinstance(command, str) and isinstance(arguments, dict) and known == len(value):
        return Request(command, arguments, id_present, id)
    raise QMPError(GENERIC_ERROR, _wrong_member(value), id_present=id_present, id=id)


def _wrong_member(message: dict[str, Any]) -> str:
    """Return what is wrong with the members of a message that is no command."""
    latest_first = [*message][::-1]
    for key in sorted(latest_first, key=_bucket):
        if key == "execute":
            if not isinstance(message[key], str):
                return "QMP input member 'execute' must be a string"
        elif key == "arguments":
            if not isinstance(message[key], dict):
                return "QMP input member 'arguments' must be an object"
        elif key != "id":
            # exec-oob too: the greeting doesn't offer it.
            return f"QMP input member '{key}' is unexpected"
    return "QMP input lacks member 'execute'"


def _bucket(key: str) -> int:
    """Return where QEMU's QDict keeps a key.

    Of several wrong members QEMU names the one in the lowest bucket (``tdb_hash()`` in ``qobject/qdict.c``), and in
    one bucket the latest.
    """
    name = key.encode().replace(b"\0", b"\xc0\x80")
    value = 0x238F13AF * len(name)
    for place, byte in enumerate(name):
        value += byte << (place * 5 % 24)
    return (1103515243 * value + 12345) % 2**32 % 512


_JSON_TYPES: Final = {"str": "string", "bool": "boolean", "int": "integer", "number": "number"}


def read_arguments(arguments: Mapping[str, Any], spec: Mapping[str, Argument]) -> dict[str, Any]:
    """Return the arguments of a command of ours, those that are there.

    :raises QMPError: where one is missing, of another type, or not in ``spec``.
    """
    found = {}
    for name, argument in spec.items():
        if name in arguments:
            found[name] = _checked(name, arguments[name], argument.type)
        elif not argument.optional:
            raise QMPError(GENERIC_ERROR, f"Parameter '{name}' is missing")
    for name in arguments:
        if name not in spec:
            raise QMPError(GENERIC_ERROR, f"Parameter '{name}' is unexpected")
    return found


def _checked(name: str, value: Any, type: str) -> Any:
    """Return ``value`` if it is of this type; ``name`` is how QEMU would call it."""
    if type == "any":
        return value
    if type.startswith("["):
        if not isinstance(value, list):
            raise _wrong_type(name, "array")
        return [_checked(f"{name}[{place}]", item, type[1:-1]) for place, item in enumerate(value)]
    if not _is(value, type):
        raise _wrong_type(name, _JSON_TYPES[type])
    return value


def _is(value: object, type: str) -> bool:
    if type == "str":
        return isinstance(value, str)
    if type == "bool" or isinstance(value, bool):
        return type == "bool" and isinstance(value, bool)
    if type == "int":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float)


def _wrong_type(name: str, expected: str) -> QMPError:
    return QMPError(GENERIC_ERROR, f"Invalid parameter type for '{name}', expected: {expected}")
