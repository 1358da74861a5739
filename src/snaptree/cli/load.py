"""``snaptree load``: go back to a snapshot.  Not for: how that is done."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from . import output, progress
from .changes import LoadOptions, changing
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .keeping import add_keep, keep_wanted
from .outcome import sentence, stopped_sentence


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_which(parser)
    add_keep(parser)
    add_allow_resize(parser)
    add_no_wait(parser)
    add_json(parser)


def add_allow_resize(parser: Parser) -> None:
    """Add --allow-resize."""
    parser.add_argument(
        "--allow-resize", action="store_true", help="load although a disk was resized since; it gets its old size again"
    )


def act(args: argparse.Namespace) -> int:
    """Load it, and say so."""
    return perform(args, which(args), f"loading {args.name or args.id}")


def perform(args: argparse.Namespace, chosen: Mapping[str, str] | None, what: str) -> int:
    """Load a snapshot, or without one undo the last load, and say so."""
    with changing(args.vm) as vm:
        keep = keep_wanted(args, vm)
        with progress.shown(what):
            done = vm.load(chosen, LoadOptions(args.allow_resize, keep, not args.no_wait))
    paused, not_kept = done.pop("paused"), done.pop("not_kept")
    if not_kept:
        output.note(f"What {args.vm} was before could not be kept: {not_kept}")
    if args.json:
        output.document(done)
        return 0
    kept = f"; what was before is kept as {done['kept']}" if done["kept"] else ""
    if vm.running:
        output.say(sentence("loaded", done) + ("; it is still paused, as it was" if paused else "") + kept)
    else:
        output.say(f"{stopped_sentence('loaded', done)}: {_without_ram(args.vm, done)}{kept}")
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
Where the VM has run since its current snapshot, an automatic one is taken before, and `snaptree undo` goes back to it;
where RAM is kept in full that takes seconds, and --keep or --discard says what is wanted. The VM runs afterwards
exactly if it ran before. A load that cannot be whole is refused before any device is touched.
Of a VM that does not run only the disks go back, and it says so: start the VM and load again for the RAM.""",
    arguments=arguments,
    act=act,
    usage="snaptree load [-h] [--keep | --discard] [--allow-resize] [--no-wait] [--json] VM (NAME | --id ID)",
    examples=(
        "snaptree load dev before-upgrade",
        "snaptree load --discard dev before-upgrade",
        "snaptree load dev --id 3fab28c9",
    ),
)
