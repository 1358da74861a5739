"""Creating, loading, deleting and adopting: at a VM's supervisor, or on the images of one that doesn't run.

Not for: what is printed of it, nor for what only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..model.errors import ProtocolError, QEMUGone
from ..places.places import VMPlace
from .outcome import MEMBERS, last_event, outcome
from .source import Home, Source, Supervised, connected, find_vm, unsupervised

if TYPE_CHECKING:
    from .client import Client


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a load goes.

    :param keep: whether the present is kept; ``None`` where the VM decides.
    """

    allow_resize: bool = False
    keep: bool | None = None
    wait: bool = True


class Changer(Protocol):
    """What changes a VM, running or not.

    Each returns what its command prints with ``--json``; ``wait`` waits while another command works on the VM.
    """

    running: bool

    def create(self, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Take a snapshot."""

    def present(self, *, wait: bool) -> dict[str, Any]:
        """Return what a load would lose: the answer of ``query-vm-changed``."""

    def load(self, which: Mapping[str, str] | None, options: LoadOptions) -> dict[str, Any]:
        """Go back to one; without one, to where the VM was before its last load."""

    def delete(self, which: Mapping[str, str], *, children: bool, wait: bool) -> dict[str, Any]:
        """Delete one, or with ``children`` all that descends from it too."""

    def adopt(self, tag: str, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Take one that others took into the tree."""


class AtSupervisor:
    """A VM that a supervisor looks after, by its QMP socket."""

    running = True

    def __init__(self, client: Client, place: VMPlace) -> None:
        self._client = client
        self._place = place

    def create(self, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Run snapshot-create."""
        self._client.execute("snapshot-create", {"name": name, "wait": wait, **_described(description)})
        event = last_event(self._client.events, "SNAPSHOT_CREATED", {"name": name})
        return self._then(lambda source: outcome(source, "create", event, {"name": name}))

    def present(self, *, wait: bool) -> dict[str, Any]:
        """Run query-vm-changed."""
        return dict(self._client.execute("query-vm-changed", {"wait": wait}))

    def load(self, which: Mapping[str, str] | None, options: LoadOptions) -> dict[str, Any]:
        """Run snapshot-load or snapshot-undo."""
        arguments: dict[str, Any] = {"allow-resize": options.allow_resize, "wait": options.wait}
        if options.keep is not None:
            arguments["keep"] = options.keep
        if which is None:
            self._client.execute("snapshot-undo", arguments)
        else:
            self._client.execute("snapshot-load", {**which, **arguments})
        event = last_event(self._client.events, "SNAPSHOT_LOADED", which)
        if which is None:
            which = (
                {"id": str(event["id"])}
                if event
                else {"name": self._client.execute("query-current-snapshot", {})["name"]}
            )
        done = self._then(lambda source: outcome(source, "load", event, which))
        kept = {"kept": event.get("kept"), "not_kept": event.get("not_kept", "")}
        return {**done, "ram_loaded": True, **kept, "paused": self._is_paused()}

    def delete(self, which: Mapping[str, str], *, children: bool, wait: bool) -> dict[str, Any]:
        """Run snapshot-delete."""
        doomed = [self._client.execute("query-snapshot", which)]
        if children:
            doomed += below(self._client.execute("query-snapshots", {}), doomed[0]["id"])
        self._client.execute("snapshot-delete", {**which, "children": children, "wait": wait})
        event = last_event(self._client.events, "SNAPSHOT_DELETED", {"id": doomed[0]["id"]})
        return {"deleted": [_named(s) for s in doomed], "duration_ms": event.get("duration_ms", 0)}

    def adopt(self, tag: str, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Run snapshot-adopt."""
        self._client.execute("snapshot-adopt", {"tag": tag, "name": name, "wait": wait, **_described(description)})
        found = self._then(lambda source: source.snapshot(name=name))
        return {member: found[member] for member in (*MEMBERS, "tag")}

    def _then(self, ask: Callable[[Source], dict[str, Any]]) -> dict[str, Any]:
        """Ask what there is to say of what has been done; in the VM's home where the VM was stopped just then."""
        try:
            return ask(Supervised(self._client))
        except (ProtocolError, QEMUGone):
            return ask(Home(self._place))

    def _is_paused(self) -> bool:
        try:
            return bool(self._client.execute("query-vm", {})["state"] == "paused")
        except (ProtocolError, QEMUGone):
            return False


class OnImages:
    """A VM that doesn't run, by its catalog and its images."""

    running = False

    def __init__(self, place: VMPlace) -> None:
        self._place = place

    def create(self, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Take a snapshot of the images."""
        from ..engine import offline_verbs  # noqa: PLC0415  SQLite and the qcow2 reader

        done = offline_verbs.create(self._place, name, description or "", wait=wait)
        return {**self._snapshot(done.snapshot.id), "duration_ms": done.duration_ms, "pause_ms": 0}

    def present(self, *, wait: bool) -> dict[str, Any]:
        """Say that disks are kept without a question: it costs little."""
        return {"changed": True, "memory": "none", "current": "", "reasons": []}

    def load(self, which: Mapping[str, str] | None, options: LoadOptions) -> dict[str, Any]:
        """Bring the images back."""
        from ..engine import offline_verbs  # noqa: PLC0415

        how: dict[str, Any] = {"allow_resize": options.allow_resize, "keep": options.keep, "wait": options.wait}
        if which is None:
            done = offline_verbs.undo(self._place, **how)
        else:
            done = offline_verbs.load(self._place, name=which.get("name"), id=which.get("id"), **how)
        timing = {"duration_ms": done.duration_ms, "pause_ms": 0}
        kept = {"kept": done.kept.name if done.kept is not None else None, "not_kept": done.not_kept}
        return {**self._snapshot(done.snapshot.id), **timing, "ram_loaded": False, **kept, "paused": False}

    def delete(self, which: Mapping[str, str], *, children: bool, wait: bool) -> dict[str, Any]:
        """Take snapshots off the images."""
        from ..engine import offline_verbs  # noqa: PLC0415

        gone, duration_ms = offline_verbs.delete(self._place, **which, children=children, wait=wait)
        return {"deleted": [{"name": s.name, "id": s.id} for s in gone], "duration_ms": duration_ms}

    def adopt(self, tag: str, name: str, description: str | None, *, wait: bool) -> dict[str, Any]:
        """Note the snapshot in catalog and lineage."""
        from ..engine import offline_verbs  # noqa: PLC0415

        done = offline_verbs.adopt(self._place, tag, name, description or "", wait=wait)
        return self._snapshot(done.snapshot.id, "tag")

    def _snapshot(self, id: str, *more: str) -> dict[str, Any]:
        from ..engine import offline  # noqa: PLC0415

        found = offline.snapshot(self._place, id=id)
        return {member: found[member] for member in (*MEMBERS, *more)}


@contextmanager
def changing(vm: str) -> Iterator[Changer]:
    """Find a VM where it can be changed: at its supervisor, else on its images.

    :raises BadName, NoSuchVM: where there is none.
    :raises VMNotRunning: where its QEMU runs and nobody supervises it.
    """
    place = find_vm(vm)
    state = place.state()
    if state.state == "unsupervised":
        raise unsupervised(place, state.qemu_pid)
    if state.state == "stopped":
        yield OnImages(place)
        return
    with connected(place) as client:
        yield AtSupervisor(client, place)


def below(snapshots: list[dict[str, Any]], root_id: str) -> list[dict[str, Any]]:
    """Return the snapshots that descend from ``root_id``, parents first."""
    children: dict[str, list[dict[str, Any]]] = {}
    for snapshot in snapshots:
        children.setdefault(snapshot["parent_id"], []).append(snapshot)
    found = children.pop(root_id, [])
    for snapshot in found:
        found.extend(children.pop(snapshot["id"], ()))
    return found


def _named(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": snapshot["name"], "id": snapshot["id"]}


def _described(description: str | None) -> dict[str, str]:
    return {} if description is None else {"description": description}
