"""``snaptree load``: go back to a snapshot.  Not for: how that is done."""

from __future__ import annotations

import argparse

from . import output, progress
from .command import Command, Parser, add_json, add_no_wait, add_vm, add_which, which
from .outcome import outcome, sentence
from .source import connected, find_vm


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
    request = {**chosen, "allow-resize": args.allow_resize, "wait": not args.no_wait}
    with connected(find_vm(args.vm)) as client, progress.shown(f"loading {args.name or args.id}"):
        client.execute("snapshot-load", request)
        done = outcome(client, "load", "SNAPSHOT_LOADED", chosen)
        paused = client.execute("query-vm", {})["state"] == "paused"
    if args.json:
        output.document(done)
    else:
        output.say(sentence("loaded", done) + ("; it is still paused, as it was" if paused else ""))
    return 0


COMMAND = Command(
    name="load",
    description="""\
Put the whole VM back to a snapshot: all its devices, its device state and its RAM.
What the VM has become since its last snapshot is lost, so create one before if it matters. The VM runs afterwards
exactly if it ran before. A load that cannot be whole is refused before any device is touched.""",
    arguments=arguments,
    act=act,
    usage="snaptree load [-h] [--allow-resize] [--no-wait] [--json] VM (NAME | --id ID)",
    examples=("snaptree load dev before-upgrade", "snaptree load dev --id 3fab28c9"),
)
