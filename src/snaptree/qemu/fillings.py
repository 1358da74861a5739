"""The values of a VM's placeholders: chosen once, kept over restarts, no two VMs of a home with the same.

Not for: what a placeholder looks like.

They are kept as ``placeholders`` in ``command.json``.  ``{dir}`` is ``dir`` in the runtime directory, where a socket's
path is short: a link to ``files`` in the VM's folder, so that what QEMU writes there outlives a reboot of the host.
A port that another program has taken since is chosen anew, and a note says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import SnaptreeError
from ..places.files import private_directory, read_json, write_json
from ..places.places import Places, VMPlace, check_socket_path
from .placeholders import CID, DIR, MAC, PORT, VM, Values, fill, wanted

MEMBER: Final = "placeholders"
"""Its name in ``command.json``."""

_PORT_MIN = 20_000
_EPHEMERAL_MIN = 32_768  # the kernel's default of ip_local_port_range; whatever connects out may take a port from there
_PORT_ATTEMPTS = 1000
_CID_MIN, _CID_END = 1000, 1 << 31  # 0 to 2 are taken (vsock(7)); small ones are what people choose by hand
_MAC_PREFIX = "52:54:00"  # locally administered, what QEMU's own begin with
_UNPRINTABLE_IN_OPTIONS = re.compile(r"[,\"'\\\s{}]")


@dataclass(frozen=True, slots=True)
class Filled:
    """A command line that fits one VM.

    :param argv: without placeholders.
    :param values: what stands in their place, for ``command.json``.
    :param notes: sentences for people.
    """

    argv: tuple[str, ...]
    values: dict[str, str | int]
    notes: tuple[str, ...] = ()


def read_values(place: VMPlace) -> dict[str, str | int]:
    """Return the values that a VM has, as ``command.json`` records them.

    :raises SnaptreeError: where that file can't be read.
    """
    recorded = (read_json(place.command) or {}).get(MEMBER)
    if not isinstance(recorded, dict):
        return {}
    return {name: value for name, value in recorded.items() if isinstance(value, str | int)}


def fill_for(place: VMPlace, argv: Sequence[str], *, durable: bool = True) -> Filled:
    """Return the command line with a value in place of each placeholder.

    Prerequisites: the VM's lock is held, its folder is made, and its QEMU does not run.
    Effects on success: new values are in ``command.json``; the directory ``{dir}`` is there.
    Effects on failure: none.

    :param durable: flush ``command.json``; without it somebody writes the values there afterwards, durably.
    :raises UsageError: where something has a placeholder's form and is none.
    :raises SnaptreeError: where a directory can't be made, or no port is free.
    """
    names = wanted(argv)
    if not names:
        return Filled(tuple(argv), {})
    if not durable and all(name in (VM, DIR) for name in names):
        # They follow from the VM's name, and no other VM can have them.
        values, notes = _choose(place, names, {}, ())
    else:
        values, notes = _choose_and_keep(place, names, durable=durable)
    if DIR in names:
        _make_directory(place)
    return Filled(tuple(fill(argv, values)), values, notes)


def _choose_and_keep(
    place: VMPlace, names: Sequence[str], *, durable: bool
) -> tuple[dict[str, str | int], tuple[str, ...]]:
    with _choosing(place):
        before = read_values(place)
        values, notes = _choose(place, names, before, _taken(place))
        if values.items() - before.items():
            kept = read_json(place.command) or {}
            write_json(place.command, {**kept, MEMBER: {**before, **values}}, durable=durable)
    return values, notes


def _choose(
    place: VMPlace, names: Sequence[str], before: Values, taken: Collection[str | int]
) -> tuple[dict[str, str | int], tuple[str, ...]]:
    values: dict[str, str | int] = {}
    notes = []
    for name in names:
        kept = before.get(name)
        used = {*taken, *(value for key, value in before.items() if key != name), *values.values()}
        if name == VM:
            values[name] = place.name
        elif name == DIR:
            values[name] = str(_directory(place))
        elif name.startswith(PORT):
            if isinstance(kept, int) and kept not in used and is_free(kept):
                values[name] = kept
                continue
            values[name] = _free_port(used)
            if kept is not None:
                notes.append(
                    f"Port {kept}, which {place.name} had for {{{name}}}, is in use; it has {values[name]} now."
                )
        elif kept is not None and kept not in used:
            values[name] = kept
        elif name.startswith(MAC):
            values[name] = _unused(used, lambda: ":".join([_MAC_PREFIX, *(f"{b:02x}" for b in _random(3))]))
        else:
            assert name == CID
            values[name] = _unused(used, lambda: _CID_MIN + _below(_CID_END - _CID_MIN))
    return values, tuple(notes)


def is_free(port: int) -> bool:
    """Say whether nobody serves at a port, on any address, by TCP or UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with _any_address(kind) as probe:
                # As QEMU does: what remains of ended connections holds no port.  With it only listening finds others.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
                probe.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
        except OSError:
            return False
    return True


def _any_address(kind: socket.SocketKind) -> socket.socket:
    """Return a socket that binds to every address of both families, or of IPv4 where the host has no IPv6."""
    if not socket.has_dualstack_ipv6():
        return socket.socket(socket.AF_INET, kind)
    probe = socket.socket(socket.AF_INET6, kind)
    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return probe


def _free_port(used: Collection[str | int]) -> int:
    end = _EPHEMERAL_MIN
    with contextlib.suppress(OSError, ValueError, IndexError):
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    low = _PORT_MIN if end > _PORT_MIN + _PORT_ATTEMPTS else 1024
    end = max(end, low + _PORT_ATTEMPTS)
    for _ in range(_PORT_ATTEMPTS):
        port = low + _below(end - low)
        if port not in used and is_free(port):
            return port
    raise SnaptreeError(f"No port from {low} to {end - 1} is free.", "End what uses them.")


def _unused(used: Collection[str | int], make: Callable[[], str | int]) -> str | int:
    while (value := make()) in used:
        pass
    return value


def _taken(place: VMPlace) -> set[str | int]:
    """Return the values of all other VMs of the home, stopped ones too; unreadable ones have none."""
    found: set[str | int] = set()
    places = Places(place.directory.parent.parent, place.runtime.parent)
    for name in places.vm_names():
        if name != place.name:
            with contextlib.suppress(SnaptreeError):
                found.update(read_values(places.vm(name)).values())
    return found


@contextmanager
def _choosing(place: VMPlace) -> Iterator[None]:
    """Let nobody else of this home choose meanwhile; the kernel drops the lock when we die."""
    fd = os.open(place.directory.parent / ".choosing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _directory(place: VMPlace) -> Path:
    """Return what ``{dir}`` stands for.

    :raises SnaptreeError: where its path could not stand in QEMU's options as it is.
    """
    path = place.runtime / "dir"
    check_socket_path(path / "12345678.sock")
    if _UNPRINTABLE_IN_OPTIONS.search(str(path)):
        raise SnaptreeError(
            f"The directory {path}, for which {{dir}} stands, holds a character that QEMU's options would split at.",
            "Set XDG_RUNTIME_DIR or SNAPTREE_HOME to a directory without commas, quotes, braces and spaces.",
        )
    return path


def _make_directory(place: VMPlace) -> None:
    files = place.directory / "files"
    private_directory(files)
    link = _directory(place)
    if link.is_symlink() and link.readlink() == files:
        return
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(files)


def _below(end: int) -> int:
    return int.from_bytes(_random(8), "big") % end


def _random(count: int) -> bytes:
    """Return random bytes, without ``secrets``, which takes 10 ms to import."""
    return os.urandom(count)
