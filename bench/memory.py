"""Pauses of the pages way, beside QEMU's own snapshots of an ordinary VM of the same size.  Not for: forks."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from snaptree.memory.pages import PAGE
from snaptree.memory.store import PageStore

from . import libvirt
from .rig import Client, Rig, rig

NODES = ["a", "b"]
ROUNDS = int(os.environ.get("SNAPTREE_BENCH_ROUNDS", "15"))
PEER_ROUNDS = 3
MANY_ROUNDS_GIB = 4
SIZES_GIB = [int(word) for word in os.environ.get("SNAPTREE_BENCH_GIB", "1,4,8").split(",")]
BUSY_MIB = 50


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds for each size of RAM, half of it in use, idle and busy; and what must be.

    What is compared with ours is measured next to it.
    """
    for gib in SIZES_GIB:
        idle = _pages(gib, busy=False)
        yield _named(f"{gib}GiB_idle", idle)
        plain = _plain(gib)
        yield _named(f"{gib}GiB_plain", plain)
        shorter = {
            f"{what}_times_shorter": plain[f"{what}_ms"] / idle[f"{what}_ms"] for what in ("create_pause", "load")
        }
        yield _named(f"{gib}GiB", shorter)
        yield _named(f"{gib}GiB_busy", _pages(gib, busy=True))
        yield _named(f"{gib}GiB_libvirt", libvirt.measure(gib * 1024, gib * 512, _peer_rounds(gib)))


def _named(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in figures.items()}


def _peer_rounds(gib: int) -> int:
    """Where each takes long, one is enough."""
    return PEER_ROUNDS if gib <= MANY_ROUNDS_GIB else 1


def _pages(gib: int, *, busy: bool) -> dict[str, Any]:
    with _guest(gib, busy=busy) as (made, client):
        first = _create(client, "first")
        creates, durations, qemus, loads, load_pauses = [], [], [], [], []
        pages = made.folder / "home" / "vms" / "vm" / "pages"
        sizes = [_allocated(pages)]
        for number in range(ROUNDS):
            entry = _create(client, f"s-{number}")
            sizes.append(_allocated(pages))
            creates.append(entry["pause_ms"])
            durations.append(entry["duration_ms"])
            # Each follows a save, on disks that grow alike.
            qemus.append(_qemu_alone(client, f"raw-{number}"))
        for number in range(ROUNDS):
            client.job("snapshot-delete", tag=f"raw-{number}", devices=NODES)
        client.execute("snapshot-load", name="s-0", keep=False)
        for number in range(ROUNDS):
            loads.append(client.timed("snapshot-load", name=f"s-{number}", keep=False))
            load_pauses.append(_last(client)["pause_ms"])
        supervisor, allowed = _memory(client), max(_of_allowed(client, pages, sizes, gib))
        qemu_loads = [_qemu_load_alone(client, f"raw-{number}") for number in range(ROUNDS)]
        return {
            "first_create_pause_ms": first["pause_ms"],
            "first_create_ms": first["duration_ms"],
            "create_pause_ms": statistics.median(creates),
            "create_pause_worst_ms": max(creates),
            "create_ms": statistics.median(durations),
            "qemu_stop_save_cont_ms": statistics.median(qemus),
            "pause_above_qemu_ms": statistics.median(creates) - statistics.median(qemus),
            "load_ms": statistics.median(loads),
            "load_pause_ms": statistics.median(load_pauses),
            "qemu_stop_load_cont_ms": statistics.median(qemu_loads),
            "load_above_qemu_ms": statistics.median(loads) - statistics.median(qemu_loads),
            "store_mib": sizes[-1] / 2**20,
            "snapshot_mib": statistics.median(after - before for before, after in pairwise(sizes)) / 2**20,
            "snapshot_of_allowed": allowed,
            "supervisor_mib": supervisor / 2**20,
        }


def _plain(gib: int) -> dict[str, Any]:
    """QEMU's own commands on a VM whose RAM is its own, so that it is at its best."""
    with _guest(gib, busy=False, full=True) as (_, client):
        saves, loads = [], []
        for number in range(_peer_rounds(gib)):
            saves.append(client.job("snapshot-save", tag=f"raw-{number}", vmstate="a", devices=NODES))
            loads.append(client.job("snapshot-load", tag=f"raw-{number}", vmstate="a", devices=NODES))
            client.job("snapshot-delete", tag=f"raw-{number}", devices=NODES)
    return {"create_pause_ms": statistics.median(saves), "load_ms": statistics.median(loads)}


def _qemu_alone(client: Client, tag: str) -> float:
    """Return how long the VM stands still by QEMU's own clock for a save without shared RAM.

    As snaptree measures its own pauses, but that those end with QEMU's answer, not with its event.
    """

    _ignore_shared(client, on=True)
    client.execute("stop")
    client.job("snapshot-save", tag=tag, vmstate="a", devices=NODES)
    client.execute("cont")
    _ignore_shared(client, on=False)
    return (client.at["RESUME"] - client.at["STOP"]) * 1000


def _qemu_load_alone(client: Client, tag: str) -> float:
    """Return how long QEMU takes for what a load needs of it: stop, load without shared RAM, and cont.

    The VM stands still from before it is saved, so that RAM, which stays as it is, belongs to what is loaded.
    """
    _ignore_shared(client, on=True)
    took = client.timed("stop")
    client.job("snapshot-save", tag=tag, vmstate="a", devices=NODES)
    took += client.job("snapshot-load", tag=tag, vmstate="a", devices=NODES)
    took += client.timed("cont")
    _ignore_shared(client, on=False)
    client.job("snapshot-delete", tag=tag, devices=NODES)
    return took


def _ignore_shared(client: Client, *, on: bool) -> None:
    client.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": on}])


@contextmanager
def _guest(gib: int, *, busy: bool, full: bool = False) -> Iterator[tuple[Rig, Client]]:
    # An idle guest checks itself every two seconds, which takes it a quarter of one; without a word it rests 0.1 s.
    words = f"snaptree.fill={gib * 512} " + (f"snaptree.dirty={BUSY_MIB}" if busy else "snaptree.pace=2000")
    with rig(linux=True, memory_mib=gib * 1024, append=words, options=["--memory", "full"] if full else []) as made:
        client = made.client()
        try:
            yield made, client
        finally:
            client.close()


def _create(client: Client, name: str) -> dict[str, Any]:
    client.execute("snapshot-create", name=name)
    return _last(client)


def _last(client: Client) -> dict[str, Any]:
    entry: dict[str, Any] = client.execute("query-snapshot-history", limit=1)[0]
    return entry


def _allocated(pages: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in pages.iterdir())


def _of_allowed(client: Client, pages: Path, sizes: list[int], gib: int) -> Iterator[float]:
    """Yield what each snapshot takes, of its pages + 64 KiB + 0.1 % of RAM."""
    ids = {snapshot["name"]: snapshot["id"] for snapshot in client.execute("query-snapshots")}
    names = ["first", *(f"s-{number}" for number in range(ROUNDS))]
    store = PageStore.open(pages, clean=False)
    for (parent, name), (before, after) in zip(pairwise(names), pairwise(sizes), strict=True):
        written = len(store.map(ids[parent]).differing(store.map(ids[name])))
        yield (after - before) / (written * PAGE + (64 << 10) + (gib << 30) // 1000)
    store.close()


def _memory(client: Client) -> int:
    """Return the supervisor's memory beside page cache and the guest's RAM."""
    pid = client.execute("query-vm")["supervisor_pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024
