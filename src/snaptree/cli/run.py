"""``snaptree run``: start QEMU and look after it.  Not for: what a supervisor does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.errors import UsageError
from ..places.places import Places
from . import progress, served
from .command import Command, Parser, add_json, add_vm
from .serving import add_serving, options

if TYPE_CHECKING:
    from ..server.exchange import End, Ready


def arguments(parser: Parser) -> None:
    """Add the arguments; QEMU's own stand after ``--``, where no parser of ours looks."""
    add_vm(parser)
    parser.add_argument("--detach", action="store_true", help="return once the VM is served")
    parser.add_argument(
        "--memory",
        choices=("auto", "full", "pages"),
        default="auto",
        help="where snapshots keep RAM: in pages of our own, in milliseconds, or in full inside QEMU's VM state;"
        " auto, the default, is pages where that can be had",
    )
    add_serving(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Start it and look after it until it ends; with --detach return once it is served."""
    place = Places.from_environ().vm(args.vm)
    if not args.words:
        raise UsageError(
            f"No QEMU command line is given for the VM {place.name}.",
            f"It stands after a double hyphen: snaptree run {place.name} -- qemu-system-x86_64 ARGS…",
        )
    from ..server import daemon, supervisor  # noqa: PLC0415  asyncio

    asked = replace(options(args), memory=args.memory)

    async def work(ready: Callable[[Ready], None]) -> End:
        return await supervisor.run(
            place, args.words, Path.cwd(), foreground=not args.detach, ready=ready, options=asked
        )

    if not args.detach:
        return served.ended(daemon.foreground(work, served.in_foreground))
    with progress.shown(f"starting {place.name}"):
        ready = daemon.detached(work)
    served.detached(ready, as_json=args.json)
    return 0


COMMAND = Command(
    name="run",
    description="""\
Start QEMU with the command line that is given, as it is, in this directory, and look after it: serve its QMP socket,
take and load snapshots. It stays in the foreground; Ctrl-C stops it and QEMU. QEMU survives a supervisor that is
killed: `snaptree attach VM` takes it up again.
A stopped VM of this name goes on with its snapshots if the disks are the same; with others it is refused.

Placeholders in the command line stand for values of the VM's own, which it keeps; `snaptree show VM` shows them:
{vm} its name, {dir} a directory, {port:NAME} a free port, {mac:NAME} a MAC address, {cid} a vsock context id.
{{vm}} is the text {vm}; all other braces, JSON's too, stay as they are.""",
    arguments=arguments,
    act=act,
    usage="snaptree run [-h] [--detach] [--memory auto|full|pages] [--listen ADDRESS]... [--allow-raw] [--json]"
    " VM -- QEMU ARGS...",
    examples=(
        "snaptree run dev -- qemu-system-x86_64 -m 4G -drive file=a.qcow2,if=virtio",
        "snaptree run dev --detach -- ./start-my-qemu.sh -display none",
        "snaptree run dev -- qemu-system-x86_64 a.qcow2 -nic user,hostfwd=tcp::{port:ssh}-:22 -vnc unix:{dir}/vnc",
    ),
    passes_on=True,
)
