"""Forks of a Linux guest: time until they run, what they take of memory, a load in place.  Not for: other snapshots."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .forks_alone import start_ms
from .rig import Rig, rig

ROUNDS = int(os.environ.get("SNAPTREE_BENCH_FORK_ROUNDS", "7"))
MANY = int(os.environ.get("SNAPTREE_BENCH_FORKS", "20"))
IDLE_S = 0.3
ONE_MIB = int(os.environ.get("SNAPTREE_BENCH_FORK_MIB", "4096"))
MIB = 2**20


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds and memory in MiB; what must be stands beside each figure."""
    yield _one()
    yield _many()


def _one() -> dict[str, Any]:
    """Fork a running guest, of 4 GiB if nobody says otherwise, half of it in use, again and again."""
    with rig(linux=True, memory_mib=ONE_MIB, append=f"snaptree.fill={ONE_MIB // 2} snaptree.pace=2000") as made:
        client = made.client()
        client.execute("snapshot-create", name="first")
        made.wait_round()  # the guest rests now, and so do forks of this moment
        client.execute("snapshot-create", name="base")
        stops = client.stops
        by_qmp, by_command, memory = [], [], []
        for number in range(ROUNDS):
            name = f"f-{number}"
            by_qmp.append(client.timed("snapshot-fork", name="base", names=[name]))
            time.sleep(IDLE_S)
            memory.append(_memory_of(made, name))
            made.snaptree("stop", "--delete", name)
            by_command.append(made.timed("fork", "vm", "base", "--as", name))
            if number < ROUNDS - 1:
                made.snaptree("stop", "--delete", name)
        paused = client.stops - stops
        fork = made.client(name)
        loads = []
        fork.execute("snapshot-create", name="own")
        for _ in range(ROUNDS):
            loads.append(fork.timed("snapshot-load", name="own", keep=False))
        fork.close()
        client.close()
        alone = start_ms(made, name, ROUNDS)
        made.snaptree("stop", "--delete", name)
    qemu = statistics.median(own.qemu for own in memory) / MIB
    guest = statistics.median(own.guest for own in memory) / MIB
    return {
        "fork_ms": statistics.median(by_qmp),
        "fork_allowed_ms": 150.0,
        "fork_qemu_start_ms": alone,
        "fork_command_ms": statistics.median(by_command),
        "source_pauses": paused,
        "fork_qemu_private_mib": qemu,
        "fork_guest_private_mib": guest,
        "fork_guest_allowed_mib": 5.0,
        "fork_private_mib": qemu + guest,
        "fork_private_allowed_mib": 60.0,
        "fork_supervisor_private_mib": statistics.median(own.supervisor for own in memory) / MIB,
        "fork_load_ms": statistics.median(loads),
        "fork_load_allowed_ms": 25.0,
    }


def _many() -> dict[str, Any]:
    """Fork a 1 GiB guest with half of it in use, many times at once."""
    with rig(linux=True, memory_mib=1024, append="snaptree.fill=512") as made:
        client = made.client()
        client.execute("snapshot-create", name="base")
        names = [f"f-{number}" for number in range(1, MANY + 1)]
        took = client.timed("snapshot-fork", name="base", names=names)
        time.sleep(IDLE_S)
        pids = [pid for name in names for pid in _pids(made, name)]
        together = sum(_rollup(pid, "Pss") for pid in pids)
        client.close()
        for name in names:
            made.snaptree("stop", "--delete", name)
    return {
        "many": MANY,
        "many_ms": took,
        "many_allowed_ms": 5000.0,
        "many_memory_mib": together / MIB,
        "many_memory_allowed_mib": 3072.0,
    }


@dataclass(frozen=True)
class Private:
    """What a fork has of memory for itself, in bytes.

    :param qemu: QEMU's beside guest RAM; ``supervisor`` what it does not share with the source's.
    """

    qemu: int
    guest: int
    supervisor: int


def _memory_of(made: Rig, name: str) -> Private:
    running = _running(made, name)
    ranges = [(address, address + ONE_MIB * MIB) for address in running["ram"].values()]
    guest = qemu = 0
    for start, sizes in _mappings(running["qemu_pid"]):
        own = sizes["Private_Dirty"] + (sizes["Private_Clean"] if sizes["Anonymous"] else 0)
        if any(low <= start < high for low, high in ranges):
            guest += sizes["Anonymous"]
        else:
            qemu += own
    return Private(qemu, guest, _rollup(running["supervisor_pid"], "Private_Dirty"))


def _running(made: Rig, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.folder / "home" / "vms" / name / "running.json").read_text())
    return found


def _pids(made: Rig, name: str) -> list[int]:
    running = _running(made, name)
    return [running["qemu_pid"], running["supervisor_pid"]]


def _mappings(pid: int) -> Iterator[tuple[int, Mapping[str, int]]]:
    """Yield where each mapping of a process begins, and its sizes in bytes (smaps, proc(5))."""
    start, sizes = -1, dict[str, int]()
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            if start >= 0:
                yield start, sizes
            start, sizes = int(key.partition("-")[0], 16), {}
        elif rest.endswith("kB"):
            sizes[key[:-1]] = int(rest.split()[0]) * 1024
    if start >= 0:
        yield start, sizes


def _rollup(pid: int, key: str) -> int:
    """Return the sum of one of the sizes of all mappings, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0
