"""Where a command finds a VM: at its supervisor, or in its home where none runs.  Not for: what is printed of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..model.errors import VMNotRunning
from ..model.snapshot import SnapshotJSON
from ..places.places import Places, VMPlace

if TYPE_CHECKING:
    from .client import Client

CONNECT_TIMEOUT_S = 5.0


class Source(Protocol):
    """What can be read and changed of a VM, running or not."""

    def snapshots(self, *, foreign: bool = False) -> list[SnapshotJSON]:
        """Return all snapshots, oldest first."""

    def snapshot(self, **which: str) -> dict[str, Any]:
        """Return one snapshot in full, by ``name`` or by ``id``."""

    def history(self, limit: int | None) -> list[dict[str, Any]]:
        """Return history, oldest first."""

    def rename(self, new_name: str, *, wait: bool, **which: str) -> None:
        """Give a snapshot another name."""

    def describe(self, description: str, *, wait: bool, **which: str) -> None:
        """Give a snapshot another description."""


class Supervised:
    """A VM that a supervisor looks after, by its QMP socket."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def snapshots(self, *, foreign: bool = False) -> list[SnapshotJSON]:
        """Ask query-snapshots."""
        return cast("list[SnapshotJSON]", self._client.execute("query-snapshots", {"foreign": foreign}))

    def snapshot(self, **which: str) -> dict[str, Any]:
        """Ask query-snapshot."""
        return cast("dict[str, Any]", self._client.execute("query-snapshot", which))

    def history(self, limit: int | None) -> list[dict[str, Any]]:
        """Ask query-snapshot-history."""
        arguments = {} if limit is None else {"limit": limit}
        return cast("list[dict[str, Any]]", self._client.execute("query-snapshot-history", arguments))

    def rename(self, new_name: str, *, wait: bool, **which: str) -> None:
        """Run snapshot-rename."""
        self._client.execute("snapshot-rename", {**which, "new-name": new_name, "wait": wait})

    def describe(self, description: str, *, wait: bool, **which: str) -> None:
        """Run snapshot-describe."""
        self._client.execute("snapshot-describe", {**which, "description": description, "wait": wait})


class Home:
    """A VM that nobody supervises, by its catalog and its images."""

    def __init__(self, place: VMPlace) -> None:
        self._place = place

    def snapshots(self, *, foreign: bool = False) -> list[SnapshotJSON]:
        """Read the catalog and the images."""
        from ..engine import offline  # noqa: PLC0415  SQLite and the qcow2 reader

        return offline.snapshots(self._place, foreign=foreign)

    def snapshot(self, **which: str) -> dict[str, Any]:
        """Read the catalog and the images."""
        from ..engine import offline  # noqa: PLC0415

        return offline.snapshot(self._place, **which)

    def history(self, limit: int | None) -> list[dict[str, Any]]:
        """Read the catalog."""
        from ..engine import offline  # noqa: PLC0415

        return offline.history(self._place, limit)

    def rename(self, new_name: str, *, wait: bool, **which: str) -> None:
        """Change catalog and lineage; nobody else works on them, so there is nothing to wait for."""
        from ..engine import offline  # noqa: PLC0415

        offline.rename(self._place, new_name, **which)

    def describe(self, description: str, *, wait: bool, **which: str) -> None:
        """Change catalog and lineage."""
        from ..engine import offline  # noqa: PLC0415

        offline.describe(self._place, description, **which)


def find_vm(vm: str) -> VMPlace:
    """Return the place of an existing VM.

    :raises BadName, NoSuchVM: where there is none.
    """
    return Places.from_environ().existing_vm(vm)


@contextmanager
def connected(place: VMPlace, timeout_s: float = CONNECT_TIMEOUT_S) -> Iterator[Client]:
    """Connect to the supervisor of a VM.

    :raises VMNotRunning: where the VM has none; the remedy says how it gets one.
    """
    require_supervisor(place)
    from .client import Client  # noqa: PLC0415  json and socket

    with Client.connect(place.qmp_socket, timeout_s) as client:
        yield client


@contextmanager
def opened(vm: str) -> Iterator[Source]:
    """Find a VM wherever it is: at its supervisor, else in its home.

    :raises BadName, NoSuchVM: where there is none.
    """
    place = find_vm(vm)
    if place.state().state != "supervised":
        yield Home(place)
        return
    with connected(place) as client:
        yield Supervised(client)


def require_supervisor(place: VMPlace) -> None:
    """:raises VMNotRunning: where nobody supervises the VM."""
    state = place.state()
    if state.state == "unsupervised":
        raise unsupervised(place, state.qemu_pid)
    if state.state == "stopped":
        raise stopped(place)


def stopped(place: VMPlace) -> VMNotRunning:
    """Return the error for a VM that does not run."""
    return VMNotRunning(
        f"The VM {place.name} does not run.",
        f"`snaptree run {place.name} -- QEMU ARGS…` starts it, with the same disks.",
    )


def unsupervised(place: VMPlace, qemu_pid: int | None) -> VMNotRunning:
    """Return the error for a VM whose QEMU runs without a supervisor."""
    pid = f" (pid {qemu_pid})" if qemu_pid else ""
    return VMNotRunning(
        f"QEMU of the VM {place.name}{pid} runs, and nobody supervises it.",
        f"`snaptree attach {place.name}` takes it up again.",
    )
