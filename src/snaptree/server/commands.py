"""Our QMP commands: their arguments and what they do.  Not for: the protocol around them.

Every command that takes a snapshot takes ``name`` or ``id`` (a whole id, or a unique prefix of at least 8 digits), and
``wait`` (default true): without waiting, a busy VM is a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..catalog.rows import to_record
from ..engine import views
from ..engine.adopt_running import adopt
from ..engine.check_run import check_vm
from ..engine.create import create
from ..engine.delete import delete
from ..engine.load import load
from ..engine.pins import pin
from ..engine.present import look
from ..engine.rename import describe, rename
from ..engine.status import advice, create_reasons
from ..engine.stop import stop
from ..engine.undo import undo
from ..engine.vm import VM
from ..model.errors import UsageError
from ..model.names import check_vm_name
from ..model.snapshot import SnapshotJSON
from ..model.tree import nest
from .request import Argument

Arguments = Mapping[str, Any]
Handler = Callable[[VM, Arguments, str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Command:
    """A QMP command of ours.

    :param returns: the QAPI type of its return value: ``object``, ``objects`` (a list), ``bool``, or ``nothing``.
    :param run: called with the VM, the checked arguments, and who the client is.
    """

    name: str
    arguments: Mapping[str, Argument]
    returns: str
    run: Handler


_WHICH = {"name": Argument("str", optional=True), "id": Argument("str", optional=True)}
_WAIT = {"wait": Argument("bool", optional=True)}


def which(arguments: Arguments) -> dict[str, str | None]:
    """Return the keyword arguments that name a snapshot.

    :raises UsageError: where there is neither a name nor an id, or both.
    """
    name, id = arguments.get("name"), arguments.get("id")
    if (name is None) == (id is None):
        raise UsageError("A snapshot is named by 'name' or by 'id', one of them.", "Give one of the two.")
    return {"name": name, "id": id}


async def _query_snapshot_status(vm: VM, arguments: Arguments, client: str) -> object:
    facts = await vm.facts()
    reasons = create_reasons(vm, facts)
    if not arguments.get("reasons", False):
        return not reasons
    return {
        "ready": not reasons,
        "reasons": [reason.to_json() for reason in reasons],
        "advice": [reason.to_json() for reason in advice(vm, facts)],
    }


async def _query_snapshots(vm: VM, arguments: Arguments, client: str) -> list[SnapshotJSON]:
    found = await vm.disk(
        views.snapshots, vm.catalog, vm.place, vm.attached, vm.tables, foreign=bool(arguments.get("foreign", False))
    )
    return nest(found) if arguments.get("tree", False) else found


async def _query_snapshot(vm: VM, arguments: Arguments, client: str) -> object:
    return await vm.disk(views.snapshot, vm.catalog, vm.place, vm.attached, vm.tables, **which(arguments))


async def _query_history(vm: VM, arguments: Arguments, client: str) -> object:
    return await vm.disk(views.history, vm.catalog, arguments.get("limit"))


async def _query_current(vm: VM, arguments: Arguments, client: str) -> object:
    return await vm.disk(views.current, vm.catalog)


async def _check(vm: VM, arguments: Arguments, client: str) -> object:
    report = await check_vm(vm, fast=arguments.get("fast", False), wait=arguments.get("wait", True))
    return report.to_json()


async def _query_vm(vm: VM, arguments: Arguments, client: str) -> object:
    version = vm.session.greeting.get("QMP", {}).get("version", {}).get("qemu", {})
    return {
        "name": vm.place.name,
        "state": "running" if vm.run_state == "running" else "paused",
        "run_state": vm.run_state,
        "qmp": f"unix:{vm.place.qmp_socket}",
        "qemu_pid": vm.process.pid if vm.process else None,
        "supervisor_pid": os.getpid(),
        "qemu_version": ".".join(str(version.get(part, 0)) for part in ("major", "minor", "micro")),
        "memory": "full" if vm.paged is None else "pages",
        "memory_why": vm.memory_why,
        "tracker": None if vm.paged is None else vm.paged.tracker.name,
        "busy": vm.busy or None,
    }


async def _create(vm: VM, arguments: Arguments, client: str) -> object:
    await create(
        vm,
        arguments["name"],
        arguments.get("description", ""),
        client=client,
        wait=arguments.get("wait", True),
    )
    return {}


async def _load(vm: VM, arguments: Arguments, client: str) -> object:
    await load(
        vm,
        **which(arguments),
        allow_resize=arguments.get("allow-resize", False),
        keep=arguments.get("keep"),
        client=client,
        wait=arguments.get("wait", True),
    )
    return {}


async def _undo(vm: VM, arguments: Arguments, client: str) -> object:
    await undo(
        vm,
        allow_resize=arguments.get("allow-resize", False),
        keep=arguments.get("keep"),
        client=client,
        wait=arguments.get("wait", True),
    )
    return {}


async def _stop(vm: VM, arguments: Arguments, client: str) -> object:
    ended = await stop(vm, keep=arguments.get("keep", True), client=client, wait=arguments.get("wait", True))
    return ended.to_json()


async def _query_vm_changed(vm: VM, arguments: Arguments, client: str) -> object:
    async with vm.operation("query", wait=arguments.get("wait", True)):
        return (await look(vm)).to_json()


async def _delete(vm: VM, arguments: Arguments, client: str) -> object:
    await delete(
        vm,
        **which(arguments),
        children=arguments.get("children", False),
        client=client,
        wait=arguments.get("wait", True),
    )
    return {}


async def _rename(vm: VM, arguments: Arguments, client: str) -> object:
    await rename(vm, arguments["new-name"], **which(arguments), client=client, wait=arguments.get("wait", True))
    return {}


async def _adopt(vm: VM, arguments: Arguments, client: str) -> object:
    await adopt(
        vm,
        arguments["tag"],
        arguments["name"],
        arguments.get("description", ""),
        client=client,
        wait=arguments.get("wait", True),
    )
    return {}


async def _pin(vm: VM, arguments: Arguments, client: str) -> object:
    fork = check_vm_name(arguments["fork"])
    return to_record(await pin(vm, fork, **which(arguments), wait=arguments.get("wait", True)))


async def _fork(vm: VM, arguments: Arguments, client: str) -> object:
    from . import offspring  # noqa: PLC0415  it stands on the server, which stands on us; loaded already (care.py)

    return await offspring.start(vm, arguments["names"], which(arguments), wait=arguments.get("wait", True))


async def _describe(vm: VM, arguments: Arguments, client: str) -> object:
    await describe(vm, arguments["description"], **which(arguments), client=client, wait=arguments.get("wait", True))
    return {}


_TEXT = Argument("str")
_FLAG = Argument("bool", optional=True)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("query-snapshot-status", {"reasons": _FLAG}, "bool", _query_snapshot_status),
        Command("query-snapshots", {"tree": _FLAG, "foreign": _FLAG}, "objects", _query_snapshots),
        Command("query-snapshot", _WHICH, "object", _query_snapshot),
        Command("query-snapshot-history", {"limit": Argument("int", optional=True)}, "objects", _query_history),
        Command("query-current-snapshot", {}, "object", _query_current),
        Command("query-vm", {}, "object", _query_vm),
        Command("query-vm-changed", _WAIT, "object", _query_vm_changed),
        Command("query-snapshot-check", {"fast": _FLAG, **_WAIT}, "object", _check),
        Command(
            "snapshot-create",
            {"name": _TEXT, "description": Argument("str", optional=True), **_WAIT},
            "nothing",
            _create,
        ),
        Command("snapshot-load", {**_WHICH, "allow-resize": _FLAG, "keep": _FLAG, **_WAIT}, "nothing", _load),
        Command("snapshot-undo", {"allow-resize": _FLAG, "keep": _FLAG, **_WAIT}, "nothing", _undo),
        Command("vm-stop", {"keep": _FLAG, **_WAIT}, "object", _stop),
        Command("snapshot-delete", {**_WHICH, "children": _FLAG, **_WAIT}, "nothing", _delete),
        Command("snapshot-pin", {**_WHICH, "fork": _TEXT, **_WAIT}, "object", _pin),
        Command("snapshot-fork", {**_WHICH, "names": Argument("[str]"), **_WAIT}, "objects", _fork),
        Command("snapshot-rename", {**_WHICH, "new-name": _TEXT, **_WAIT}, "nothing", _rename),
        Command(
            "snapshot-adopt",
            {"tag": _TEXT, "name": _TEXT, "description": Argument("str", optional=True), **_WAIT},
            "nothing",
            _adopt,
        ),
        Command("snapshot-describe", {**_WHICH, "description": _TEXT, **_WAIT}, "nothing", _describe),
    )
}
