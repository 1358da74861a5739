"""What a command line says about RAM.  Not for: deciding where RAM shall lie.

Options that are given several times are merged as QEMU merges them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..model.names import printable
from . import sizes
from .commandline import Option, options

RAM_ALIGN_BYTES: Final = 8192
"""QEMU rounds the size of -m up to this (machine_set_mem())."""

_BACKENDS: Final = "memory-backend-"
_ON: Final = frozenset({"on", "yes", "true", "y"})


class Unsuitable(Exception):
    """The pages way cannot be had with this command line."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Backend:
    """A ``-object memory-backend-…``."""

    option: Option
    kind: str
    members: dict[str, str]

    @property
    def id(self) -> str:
        """Its id; empty where it has none."""
        return self.members.get("id", "")

    @property
    def shared(self) -> bool:
        """It is mapped shared."""
        default = "on" if self.kind in ("memfd", "shm") else "off"
        return self.members.get("share", default) in _ON


@dataclass(slots=True)
class Given:
    """What a command line says about RAM, merged as QEMU merges it: later words win, member by member.

    :ivar machine: of -machine and -M, with ``type``.
    :ivar memory: of -m, with ``size``.
    :ivar nodes: each -numa node.
    :ivar backends: each -object memory-backend-…, by its id.
    :ivar devices: each -device, with ``driver``.
    :ivar others: all other options.
    """

    machine: dict[str, str] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    nodes: list[tuple[Option, dict[str, str]]] = field(default_factory=list)
    backends: dict[str, Backend] = field(default_factory=dict)
    devices: list[tuple[Option, dict[str, str]]] = field(default_factory=list)
    others: list[Option] = field(default_factory=list)

    @classmethod
    def of(cls, argv: Sequence[str]) -> Given:
        """Read a command line."""
        given = cls()
        for option in options(argv):
            match option.name:
                case "machine" | "M":
                    given.machine |= members(option, "type")
                case "m":
                    given.memory |= members(option, "size")
                case "numa":
                    found = members(option, "type")
                    if found.get("type") == "node":
                        given.nodes.append((option, found))
                case "object":
                    found = members(option, "qom-type")
                    kind = found.get("qom-type", "")
                    if kind.startswith(_BACKENDS):
                        backend = Backend(option, kind.removeprefix(_BACKENDS), found)
                        given.backends[backend.id] = backend
                case "device":
                    given.devices.append((option, members(option, "driver")))
                case _:
                    given.others.append(option)
        return given

    @property
    def memdev(self) -> str:
        """The backend that is the machine's RAM; empty where the machine makes its own."""
        return self.machine.get("memory-backend", "")

    @property
    def nodes_with_memdev(self) -> list[str]:
        """The backends that are RAM of NUMA nodes."""
        return [node["memdev"] for _, node in self.nodes if "memdev" in node]

    def size_bytes(self) -> int | None:
        """Return the size of -m; ``None`` where it is not given, or is 0, which means the same.

        :raises Unsuitable: where it is no size.
        """
        text = self.memory.get("size", "")
        if text[-1:].isdigit():
            text += "M"
        text = text or self.machine.get("memory.size", "")
        if not text:
            return None
        size = sizes.parse(text)
        if size is None:
            raise Unsuitable(f"The size of RAM, {printable(text)}, cannot be read.")
        return -(-size // RAM_ALIGN_BYTES) * RAM_ALIGN_BYTES or None


def members(option: Option, first: str) -> dict[str, str]:
    """Return the members of an option's argument, as words; ``first`` is the key of a first bare word."""
    value = option.value or ""
    if value.startswith("{"):
        return dict(_flat(read_json(value)))
    return {key or first: item for key, item in option.fields()}


def read_json(value: str) -> dict[str, Any]:
    """Return the object that an option's argument is; empty where it is none."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield members of members as QEMU's KEY.KEY=VALUE has them."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        elif isinstance(item, bool):
            yield prefix + key, "on" if item else "off"
        else:
            yield prefix + key, str(item)
