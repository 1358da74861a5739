"""All that decides whether a snapshot can be taken or loaded now, asked of QEMU at one time.  Not for: deciding it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..model.errors import QEMUFailed, QEMUGone
from ..model.snapshot import Machine
from ..qcow2.table import ImageSnapshot
from . import machine
from .blockdevs import BlockDevice, block_devices, closed_devices, read_only_devices
from .blockgraph import parse_graph
from .host import Host, look
from .runstates import PRECONFIG, RESET_BEFORE_LOAD
from .together import all_ended

Query: TypeAlias = Callable[[str, Mapping[str, object] | None], Awaitable[Any]]
"""Executes a QMP command and returns its value; raises QEMUFailed where QEMU answers with an error."""


@dataclass(frozen=True, slots=True)
class StaticFacts:
    """What stays the same for as long as a QEMU process lives; empty where QEMU doesn't tell.

    :param cpu: as :func:`.machine.cpu_text`.
    """

    version: tuple[int, int, int] = (0, 0, 0)
    machine: str = ""
    cpu: str = ""
    kvm: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is under way.

    :param id: a block job without an id of its own has the drive's.
    :param kind: QEMU's type of it, for example ``mirror``.
    """

    id: str
    kind: str
    status: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The VM at one moment.

    :param run_state: QEMU's word for it, or ``preconfig``.
    :param running: the guest's CPUs run.
    :param devices: what a snapshot must hold.
    :param read_only: devices with a medium that is read-only.
    :param nodes_error: why QEMU could not list its block nodes; then ``devices`` is empty.
    :param closed: devices whose image QEMU has closed as corrupt.
    :param block_jobs: those that have not concluded.
    :param jobs: other jobs that have not concluded.
    :param migration: the status of the last migration or save; empty where there was none.
    :param blocked: why QEMU cannot save the state of its devices, each a sentence of QEMU's.
    :param capabilities: the migration capabilities that are on.
    :param host: what the host knows of the process.
    :param shared_backends: the ids of the memory backends that QEMU shares (``share=on``).
    """

    static: StaticFacts
    run_state: str
    running: bool
    machine: Machine
    devices: tuple[BlockDevice, ...]
    read_only: tuple[BlockDevice, ...] = ()
    nodes_error: str = ""
    closed: tuple[str, ...] = ()
    block_jobs: tuple[Job, ...] = ()
    jobs: tuple[Job, ...] = ()
    migration: str = ""
    blocked: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    host: Host = field(default_factory=Host)
    shared_backends: tuple[str, ...] = ()

    @property
    def unseen_writers(self) -> tuple[str, ...]:
        """The devices through which something else than QEMU writes into guest RAM, unseen by any tracker."""
        return tuple(device for device in self.machine.devices if _kind(device).startswith(_UNSEEN))

    @property
    def punching(self) -> tuple[str, ...]:
        """The devices through which the guest gives RAM back: it is zero then, and not marked as written."""
        return tuple(device for device in self.machine.devices if _kind(device).startswith(_PUNCHING))

    @property
    def reset_before_load(self) -> bool:
        """The VM must be reset before a load, or it cannot continue after it: see :func:`.reset.reset_for_load`."""
        return self.run_state in RESET_BEFORE_LOAD

    @property
    def vm_state_max_bytes(self) -> int:
        """The most that a VM state with all RAM can take, devices apart; 0 where nothing is known."""
        known = [size for size in (self.machine.ram_size, self.host.ram_used_bytes) if size]
        return min(known, default=0)


_UNSEEN = ("vhost-user", "vfio", "ivshmem", "vhost-vdpa", "vdpa")
_PUNCHING = ("virtio-balloon", "virtio-mem")


def _kind(device: str) -> str:
    """Return the type of ``ID=TYPE`` or ``TYPE``."""
    return device.rpartition("=")[2]


async def gather_static(query: Query) -> StaticFacts:
    """Ask QEMU for what stays the same.

    :raises QEMUGone: where QEMU ends meanwhile.
    """
    version = (await query("query-version", None))["qemu"]
    kvm = bool((await _ask(query, "query-kvm", {})).get("enabled", False))
    cpus = await _ask(query, "query-cpus-fast", [])
    cpu = ""
    if cpus:
        path = cpus[0]["qom-path"]
        words = await _ask(query, "qom-get", [], path=path, property="feature-words")
        cpu = machine.cpu_text(await _ask(query, "qom-get", "", path=path, property="type"), words, kvm=kvm)
    return StaticFacts(
        (version["major"], version["minor"], version["micro"]),
        machine.machine_type(await _ask(query, "qom-get", "", path="/machine", property="type")),
        cpu,
        kvm,
    )


async def gather(query: Query, *, static: StaticFacts | None, pid: int | None) -> Facts:
    """Ask QEMU for everything; about fifteen short commands, sent at once, which QEMU answers in their order.

    :param static: from an earlier :func:`gather_static` of the same process; ``None`` asks again, and so does one
        without a CPU, which is of the time before QEMU had built the machine.
    :param pid: QEMU's process on this host; ``None`` where it is not known.
    :raises QEMUFailed: where QEMU doesn't even tell its run state.
    :raises QEMUGone: where QEMU ends meanwhile.
    """
    if static is None or not static.cpu:
        static = await gather_static(query)
    passing, memdevs, backends, (nodes, debug_graph, error), machine, host = await asyncio.gather(
        _passing(query),
        _ask(query, "query-memdev", []),
        _ask(query, "query-block", []),
        _nodes(query),
        _machine(query, static),
        asyncio.to_thread(look, pid),
    )
    graph = parse_graph(nodes, debug_graph)
    return _with_passing(
        Facts(
            static=static,
            run_state="",
            running=False,
            machine=machine,
            devices=block_devices(backends, graph, host),
            read_only=read_only_devices(backends, graph, host),
            nodes_error=error,
            closed=closed_devices(backends),
            host=host,
            shared_backends=tuple(sorted(m.get("id", "?") for m in memdevs if m.get("share"))),
        ),
        passing,
    )


async def refresh(query: Query, known: Facts, tables: Mapping[str, tuple[ImageSnapshot, ...]]) -> Facts:
    """Ask QEMU only for what changes without anybody's command, in a sixth of the time of :func:`gather`.

    Prerequisites: since ``known`` was gathered no command and no event has changed the machine or its block nodes.

    :param tables: the snapshots in each device's image, by device, as they are now.
    :raises QEMUFailed: where QEMU doesn't even tell its run state.
    :raises QEMUGone: where QEMU ends meanwhile.
    """
    passing = await _passing(query)
    return _with_passing(with_tables(known, tables), passing)


def with_tables(known: Facts, tables: Mapping[str, tuple[ImageSnapshot, ...]]) -> Facts:
    """Return facts with the snapshots that each device's image holds now, and the room that there is for more."""
    devices = tuple(
        replace(d, snapshots=tables[d.device], host_free_bytes=known.host.free_bytes(d.file)) for d in known.devices
    )
    return replace(known, devices=devices)


async def refresh_then(query: Query, known: Facts, last: Awaitable[object], *behind: Awaitable[object]) -> Facts:
    """Ask as :func:`refresh`, and do the rest in the same breath: QEMU answers in order, and nothing comes between.

    Jobs and capabilities are not asked for where there were none: they begin by a command.  What ``last`` does not
    change is asked behind it, as QEMU takes long to read (see ``session``).

    :param last: a command to be executed after the question for the run state.
    :param behind: what is begun after all that.
    :return: the facts of the moment before ``last``.
    :raises QEMUFailed: where QEMU doesn't even tell its run state, or doesn't do ``last``.
    :raises QEMUGone: where QEMU ends meanwhile.
    """
    still = not (known.jobs or known.block_jobs or known.capabilities)
    # Tasks begin in their order, and each sends before it waits for the first time.
    if still:
        asked = await all_ended(query("query-status", None), last, _ask(query, "query-migrate", {}), *behind)
        return _with_passing(known, _Passing(asked[0], (), (), asked[2], ()))
    questions = _questions(query)
    asked = (await all_ended(*questions, last, *behind))[: len(questions)]
    return _with_passing(known, _Passing(*asked))


@dataclass(frozen=True, slots=True)
class _Passing:
    """QEMU's answers about what changes by itself."""

    status: Mapping[str, Any]
    block_jobs: Sequence[Mapping[str, Any]]
    jobs: Sequence[Mapping[str, Any]] | None
    migration: Mapping[str, Any]
    capabilities: Sequence[Mapping[str, Any]]


async def _passing(query: Query) -> _Passing:
    return _Passing(*await asyncio.gather(*_questions(query)))


def _questions(query: Query) -> tuple[Awaitable[Any], ...]:
    return (
        query("query-status", None),
        _ask(query, "query-block-jobs", []),
        _ask(query, "query-jobs", None),
        _ask(query, "query-migrate", {}),
        _ask(query, "query-migrate-capabilities", []),
    )


def _with_passing(facts: Facts, passing: _Passing) -> Facts:
    ids = {job["device"] for job in passing.block_jobs}
    return replace(
        facts,
        # Before the machine is built QEMU refuses query-jobs, which any QEMU with snapshot-save has.
        run_state=PRECONFIG if passing.jobs is None else passing.status["status"],
        running=passing.status["running"],
        block_jobs=tuple(_block_job(job) for job in passing.block_jobs if job.get("status") != "concluded"),
        jobs=tuple(_job(job) for job in passing.jobs or () if job["status"] != "concluded" and job["id"] not in ids),
        migration=passing.migration.get("status", ""),
        blocked=tuple(passing.migration.get("blocked-reasons", ())),
        capabilities=frozenset(item["capability"] for item in passing.capabilities if item["state"]),
    )


async def gather_devices(query: Query, *, pid: int | None) -> tuple[BlockDevice, ...]:
    """Ask QEMU for the devices alone, in three commands.

    :raises QEMUFailed: where it doesn't list its nodes.
    :raises QEMUGone: where QEMU ends meanwhile.
    """
    (nodes, debug_graph, error), backends = await asyncio.gather(_nodes(query), _ask(query, "query-block", []))
    if error:
        raise QEMUFailed(f"QEMU does not list its block nodes. {error}")
    return block_devices(backends, parse_graph(nodes, debug_graph), look(pid))


async def _machine(query: Query, static: StaticFacts) -> Machine:
    memory, cpus, pci, *lists = await asyncio.gather(
        _ask(query, "query-memory-size-summary", {"base-memory": 0}),
        _ask(query, "query-cpus-fast", []),
        _ask(query, "query-pci", []),
        *(_ask(query, "qom-list", [], path=path) for path in _CONTAINERS),
    )
    devices = machine.plugged(lists[0], lists[1], lists[2], pci)
    return Machine(static.machine, machine.ram_size(memory), static.cpu, len(cpus), devices)


_CONTAINERS = (machine.PERIPHERAL, machine.PERIPHERAL_ANON, machine.UNATTACHED)


async def _nodes(query: Query) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any], str]:
    """Return the block nodes and their graph, or why there is none: one image closed as corrupt hides all nodes."""
    try:
        nodes, debug_graph = await asyncio.gather(
            query("query-named-block-nodes", {"flat": True}), query("x-debug-query-block-graph", None)
        )
        return nodes, debug_graph, ""
    except QEMUGone:
        raise
    except QEMUFailed as error:
        return [], {"nodes": [], "edges": []}, error.message


async def _ask(query: Query, command: str, default: Any, **arguments: object) -> Any:
    """Return the answer, or ``default`` where QEMU doesn't have the command or doesn't allow it now."""
    try:
        return await query(command, arguments or None)
    except QEMUGone:
        raise
    except QEMUFailed:
        return default


def _block_job(job: Mapping[str, Any]) -> Job:
    return Job(job["device"], job["type"], job.get("status", ""))


def _job(job: Mapping[str, Any]) -> Job:
    return Job(job["id"], job["type"], job["status"])
