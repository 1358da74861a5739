"""``snaptree attach``: look after a QEMU that runs already.  Not for: starting one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..places.places import Places
from . import progress, served
from .command import Command, Parser, add_json, add_vm
from .serving import add_serving, options

if TYPE_CHECKING:
    from ..server.exchange import End, Ready


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument(
        "--qmp",
        metavar="ADDRESS",
        help="QEMU's own QMP socket: unix:PATH, PATH or tcp:HOST:PORT; without it, the one that the VM had",
    )
    parser.add_argument("--detach", action="store_true", help="return once the VM is served")
    add_serving(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Look after it until it ends; with --detach return once it is served."""
    place = Places.from_environ().vm(args.vm)
    from ..server import daemon, supervisor  # noqa: PLC0415  asyncio

    asked = options(args)

    async def work(ready: Callable[[Ready], None]) -> End:
        return await supervisor.attach(place, args.qmp, ready=ready, options=asked)

    if not args.detach:
        return served.ended(daemon.foreground(work, served.in_foreground))
    with progress.shown(f"attaching {place.name}"):
        ready = daemon.detached(work)
    served.detached(ready, as_json=args.json)
    return 0


COMMAND = Command(
    name="attach",
    description="""\
Look after a QEMU that somebody else started, by its QMP socket, or after one of ours whose supervisor has died. It
stays in the foreground; Ctrl-C ends the supervisor, and QEMU runs on.
A QMP socket of QEMU serves one client: another one that holds it must go first.""",
    arguments=arguments,
    act=act,
    examples=("snaptree attach dev --qmp unix:/run/qemu/dev.sock", "snaptree attach dev"),
)
