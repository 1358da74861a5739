"""``snaptree load``: go back to a snapshot.  Not for: how that is done."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from . import output, progress
from .changes import changing
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .outcome import sentence, stopped_sentence


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    parser.add_argument(
        "--allow-resize", action="store_true", help="load although a disk was resized since; it gets its old size again"
    )
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Load it, and say so."""
    chosen = which(args)
    with changing(args.vm) as vm, progress.shown(f"loading {args.name or args.id}"):
        done = vm.load(chosen, allow_resize=args.allow_resize, wait=not args.no_wait)
    paused = done.pop("paused")
    if args.json:
        output.document(done)
    elif vm.running:
        output.say(sentence("loaded", done) + ("; it is still paused, as it was" if paused else ""))
    else:
        output.say(f"{stopped_sentence('loaded', done)}: {_without_ram(args.vm, done)}")
    return 0


def _without_ram(vm: str, done: Mapping[str, Any]) -> str:
    """Return what a load of a VM that doesn't run has left out."""
    if done["memory"] == "none":
        return "its disks, which is all that it holds"
    return (
        f"its disks only. RAM is not loaded: the VM starts cold from these disks, as after a power cut;"
        f" `snaptree load {vm} {done['name']}` once it runs brings RAM back too"
    )


COMMAND = Command(
    name="load",
    description="""\
Put the whole VM back to a snapshot: all its devices, its device state and its RAM.
What the VM has become since its last snapshot is lost, so create one before if it matters. The VM runs afterwards
exactly if it ran before. A load that cannot be whole is refused before any device is touched.
Of a VM that does not run only the disks go back, and it says so: start the VM and load again for the RAM.""",
    arguments=arguments,
    act=act,
    usage="snaptree load [-h] [--allow-resize] [--no-wait] [--json] VM (NAME | --id ID)",
    examples=("snaptree load dev before-upgrade", "snaptree load dev --id 3fab28c9"),
)
