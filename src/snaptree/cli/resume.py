"""``snaptree resume``: start a stopped VM so that it goes on from a snapshot.  Not for: how that is done."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import progress, served
from .command import Command, Parser, add_json, add_vm, add_which, which
from .serving import add_serving, options
from .source import find_vm

if TYPE_CHECKING:
    from ..server.exchange import End, Ready


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    parser.add_argument("--detach", action="store_true", help="return once the VM is served")
    parser.add_argument("--eager", action="store_true", help="read all RAM before the guest goes on")
    add_serving(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Start it and look after it until it ends; with --detach return once it is served."""
    place = find_vm(args.vm)
    chosen = which(args) if args.name is not None or args.id is not None else {}
    from ..engine.offline_hold import client_name  # noqa: PLC0415
    from ..server import daemon, resuming  # noqa: PLC0415  asyncio

    asked, client = options(args), client_name()

    async def work(ready: Callable[[Ready], None]) -> End:
        return await resuming.resume(
            place,
            chosen,
            client=client,
            foreground=not args.detach,
            ready=ready,
            options=asked,
            eagerly=args.eager,
        )

    if not args.detach:
        return served.ended(daemon.foreground(work, served.in_foreground))
    with progress.shown(f"resuming {place.name}"):
        ready = daemon.detached(work)
    served.detached(ready, as_json=args.json)
    return 0


COMMAND = Command(
    name="resume",
    description="""\
Start a stopped VM with the command line that it had, so that it goes on from a snapshot, RAM and all: the one that is
named, else the current one, which after `snaptree stop` is the moment of the stop. After a crash of QEMU or of the
host, what the disks hold is kept first, as an automatic snapshot of the disks alone.
RAM in pages is mapped from the page store and read as the guest needs it; with --eager all of it is read first.
It stays in the foreground as `snaptree run` does.""",
    arguments=arguments,
    act=act,
    usage="snaptree resume [-h] [--detach] [--eager] [--listen ADDRESS]... [--allow-raw] [--json] VM [NAME | --id ID]",
    examples=("snaptree resume dev --detach", "snaptree resume dev before-upgrade"),
)
