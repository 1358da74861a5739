"""``snaptree forget``: give a stopped VM out of our care.  Not for: its disks, which stay."""

from __future__ import annotations

import argparse

from ..model.errors import VMRuns
from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .source import find_vm


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("--snapshots", action="store_true", help="delete its snapshots from the images too")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Forget it, and say so."""
    place = find_vm(args.vm)
    known = place.state().state
    if known == "unsupervised":
        raise VMRuns(
            f"QEMU of the VM {place.name} runs, and nobody supervises it.",
            f"`snaptree attach {place.name}` takes it up again, `snaptree stop {place.name}` then ends it.",
        )
    if known != "stopped":
        raise VMRuns(f"The VM {place.name} runs.", f"`snaptree stop {place.name}` ends it; then it can be forgotten.")
    from ..engine import offline  # noqa: PLC0415  SQLite

    with progress.shown(f"forgetting {place.name}"):
        offline.forget(place, snapshots=args.snapshots)
    if args.json:
        output.document({"name": place.name, "snapshots": args.snapshots})
    else:
        output.say(
            f"forgot {place.name}{' and its snapshots' if args.snapshots else '; the images keep its snapshots'}"
        )
    return 0


COMMAND = Command(
    name="forget",
    description="""\
Forget a stopped VM: its catalog, its history, its command line. The disks stay as they are, and the snapshots stay in
them; with --snapshots these go too, from every image.""",
    arguments=arguments,
    act=act,
    examples=("snaptree forget dev", "snaptree forget dev --snapshots"),
)
