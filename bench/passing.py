"""What passing adds to a ``query-status``, and commands a second: through snaptree and to QEMU alone, by turns.

Not for: our own commands.  One QEMU has two monitors: one is snaptree's, the other is asked directly.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .rig import Client, Rig, rig

ROUNDS = 40
COMMANDS = 100
"""In each round, to each of the two."""
PIPELINED = 4
"""Commands of one client under way at once, where commands a second are counted; QEMU reads no more than 8."""
CLIENTS = 10


def measure() -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds, and commands a second."""
    times: dict[str, list[float]] = {"alone": [], "through": []}
    with rig("-S", "-qmp", "unix:alone.sock,server=on,wait=off", linux=False, memory_mib=64) as made:
        clients = {"alone": Client(str(made.folder / "alone.sock")), "through": made.client()}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                times[name] += [client.timed("query-status") for _ in range(COMMANDS)]
        for client in clients.values():
            client.close()
        medians = {name: statistics.median(found) for name, found in times.items()}
        yield {
            "query_status_alone_ms": round(medians["alone"], 3),
            "query_status_through_ms": round(medians["through"], 3),
            "added_ms": round(medians["through"] - medians["alone"], 3),
            "added_allowed_ms": 0.3,
            "commands_a_second_alone": _rate(made.folder / "alone.sock", 1),
            "commands_a_second_through": _rate(_path(made), 1),
            f"commands_a_second_through_{CLIENTS}_clients": _rate(_path(made), CLIENTS),
        }


def _path(made: Rig) -> Path:
    return Path(made.snaptree("qmp", "vm").strip().removeprefix("unix:"))


def _rate(path: Path, count: int) -> float:
    """Return how many commands a second are answered, sent by so many clients at once."""
    command = json.dumps({"execute": "query-status"}).encode() * PIPELINED
    connections = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    files = [connection.makefile("rb") for connection in connections]
    try:
        for connection, file in zip(connections, files, strict=True):
            connection.connect(str(path))
            file.readline()
            connection.sendall(b'{"execute": "qmp_capabilities"}')
            file.readline()
        turns = ROUNDS * COMMANDS // PIPELINED // count
        start = time.perf_counter()
        for _ in range(turns):
            for connection in connections:
                connection.sendall(command)
            for file in files:
                for _ in range(PIPELINED):
                    file.readline()
        return round(turns * count * PIPELINED / (time.perf_counter() - start))
    finally:
        for file, connection in zip(files, connections, strict=True):
            file.close()
            connection.close()


if __name__ == "__main__":
    from .__main__ import main

    raise SystemExit(main(["passing"]))
