"""``snaptree fork``: start more VMs from a snapshot.  Not for: how a fork comes to be."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..model.errors import UsageError
from ..places.places import Places, VMPlace
from . import output, progress
from .command import Command, Parser, add_json, add_vm, add_which, which
from .human import duration_text
from .served import all_notes
from .source import connected, find_vm

if TYPE_CHECKING:
    from ..server.exchange import End, Ready

COUNT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Started:
    """A fork that runs, as its supervisor tells it."""

    name: str
    qmp: str
    qemu_pid: int | None
    supervisor_pid: int
    state: str
    notes: Sequence[str]


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    parser.add_argument("--as", dest="new", metavar="NEW", required=True, help="the new VM's name")
    parser.add_argument("--count", type=int, metavar="N", help="make N of them, NEW-1 to NEW-N")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Start the forks, and return once all run."""
    source = find_vm(args.vm)
    chosen = which(args)
    if args.count is not None and not 1 <= args.count <= COUNT_MAX:
        raise UsageError(f"--count is {args.count}.", f"It may be 1 to {COUNT_MAX}.")
    names = [args.new] if args.count is None else [f"{args.new}-{number}" for number in range(1, args.count + 1)]
    places = [Places.from_environ().vm(name) for name in names]
    start = time.perf_counter()
    with progress.shown(f"forking {source.name}"):
        forks = start_forks(source, places, chosen)
    took = (time.perf_counter() - start) * 1000
    if args.json:
        documents = [document(ready) for ready in forks]
        output.document(documents[0] if args.count is None else documents)
        return 0
    for ready in forks:
        all_notes(ready.notes)
        output.say(f"{ready.name} is {ready.state}, served at {ready.qmp}")
    output.note(f"{len(forks)} started in {duration_text(took)}" if len(forks) > 1 else f"in {duration_text(took)}")
    return 0


def start_forks(source: VMPlace, places: list[VMPlace], chosen: dict[str, str]) -> list[Started]:
    """Start a fork at each place, all at once; where one fails the others are as they are, and its error is raised.

    :raises SnaptreeError: the first failure.
    """
    if source.state().state == "supervised":
        names = [place.name for place in places]
        with connected(source) as client:
            begun = client.execute("snapshot-fork", {**chosen, "names": names})
        return [Started(**item) for item in begun]
    from ..server import daemon, forking  # noqa: PLC0415  asyncio

    def work(place: VMPlace) -> daemon.Work:
        async def fork(ready: Callable[[Ready], None]) -> End:
            return await forking.fork(source, place, chosen, ready=ready)

        return fork

    if len(places) > 1:
        forking.preload()
    return [Started(**asdict(ready)) for ready in daemon.detached_all([work(place) for place in places])]


def document(ready: Started) -> dict[str, Any]:
    """Return what --json prints of a fork, the same as of ``run --detach``."""
    return {
        "name": ready.name,
        "state": ready.state,
        "qmp": ready.qmp,
        "qemu_pid": ready.qemu_pid,
        "supervisor_pid": ready.supervisor_pid,
    }


COMMAND = Command(
    name="fork",
    description="""\
Start a second VM that goes on from a snapshot of the first, which runs on as it is or stays stopped. RAM and disks are
shared until one of them writes. A fork is a VM like any other, with snapshots and a tree of its own; it can be forked
again. The snapshot stays as long as forks stand on it; `snaptree stop --delete FORK` removes one whole.
What only one VM can have, a port or a socket, stands in the source's command line as a placeholder: {port:NAME},
{dir}, {mac:NAME}, {cid}, {vm}.""",
    arguments=arguments,
    act=act,
    usage="snaptree fork [-h] [--count N] [--json] VM (NAME | --id ID) --as NEW",
    examples=("snaptree fork dev before-upgrade --as trial", "snaptree fork dev ready --as worker --count 8"),
)
