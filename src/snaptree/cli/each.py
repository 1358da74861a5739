"""``snaptree each``: run a command for a fork of each of several snapshots.  Not for: how they are run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..model.errors import NoSuchSnapshot, UsageError
from ..model.names import printable
from ..model.snapshot import SnapshotJSON
from . import forkrun, output, progress
from .command import Command, Parser, add_json, add_vm
from .forkrun import Outcome
from .human import clean, counted, duration_text
from .paint import Span
from .source import find_vm, opened
from .table import Column, Table


def arguments(parser: Parser) -> None:
    """Add the arguments; the command's own stand after ``--``."""
    add_vm(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a snapshot")
    parser.add_argument(
        "--leaves",
        action="store_true",
        help="all snapshots that no other descends from; automatic ones do not count",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="run at most N at once; without it as many as CPUs")
    parser.add_argument("--keep-failed", action="store_true", help="keep the forks whose command failed")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Run them, print how they ended, and return 0 where all is well."""
    words = forkrun.check_words(args.words, f"snaptree each {args.vm} --leaves")
    if bool(args.names) == args.leaves:
        raise UsageError(
            "Both --leaves and names are given." if args.leaves else "It is not said which snapshots.",
            "Name the snapshots, or give --leaves.",
        )
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs is {args.jobs}.", "It is at least 1.")
    jobs = args.jobs or len(os.sched_getaffinity(0))
    source = find_vm(args.vm)
    with opened(args.vm) as known:
        snapshots = known.snapshots()
    chosen = leaves(snapshots) if args.leaves else named(args.vm, snapshots, args.names)
    with progress.shown(f"running {words[0]} for {counted(len(chosen), 'fork')} of {source.name}"):
        found = forkrun.run_for_each(source, chosen, words, jobs=jobs, keep_failed=args.keep_failed)
    if args.json:
        output.document([outcome.to_json() for outcome in found])
    elif found:
        output.table(render(found))
    else:
        output.note(f"The VM {source.name} has no snapshots.")
    kept = [outcome.fork for outcome in found if outcome.kept]
    if kept:
        output.note(f"kept: {', '.join(kept)}; `snaptree stop --delete {kept[0]}` removes one")
    return int(any(outcome.exit_code != 0 for outcome in found))


def leaves(snapshots: Sequence[SnapshotJSON]) -> list[SnapshotJSON]:
    """Return the snapshots that no other descends from, automatic ones left out of account."""
    asked_for = [snapshot for snapshot in snapshots if not snapshot["automatic"]]
    parent_of = {snapshot["id"]: snapshot["parent_id"] for snapshot in snapshots}
    automatic = {snapshot["id"] for snapshot in snapshots if snapshot["automatic"]}
    inner = set()
    for snapshot in asked_for:
        parent = snapshot["parent_id"]
        while parent in automatic:
            automatic.discard(parent)
            parent = parent_of[parent]
        inner.add(parent)
    return [snapshot for snapshot in asked_for if snapshot["id"] not in inner]


def named(vm: str, snapshots: Sequence[SnapshotJSON], names: Sequence[str]) -> list[SnapshotJSON]:
    """Return the snapshots of these names, each once.

    :raises NoSuchSnapshot: where there is none of a name.
    """
    by_name = {snapshot["name"]: snapshot for snapshot in snapshots}
    for name in names:
        if name not in by_name:
            raise NoSuchSnapshot(f"The VM {vm} has no snapshot {printable(name)}.", f"`snaptree list {vm}` shows them.")
    return [by_name[name] for name in dict.fromkeys(names)]


def render(found: Sequence[Outcome]) -> Table:
    """Return the table."""
    columns = (
        Column("SNAPSHOT"),
        Column("FORK"),
        Column("EXIT", right=True),
        Column("TIME", right=True),
        Column("WHY", folds=True),
    )
    return Table(columns, [_row(outcome) for outcome in found])


def _row(outcome: Outcome) -> list[Span]:
    ran = outcome.exit_code is not None
    return [
        (clean(outcome.snapshot), "bold"),
        (outcome.fork or "-", ""),
        (str(outcome.exit_code) if ran else "-", "good" if outcome.exit_code == 0 else "bad"),
        (duration_text(outcome.duration_ms) if ran else "-", ""),
        (clean(outcome.error["message"]) if outcome.error else "", "bad"),
    ]


COMMAND = Command(
    name="each",
    description="""\
Fork each of these snapshots, run a command for each fork, and remove the fork. In the command's words {vm} stands for
the fork's name; SNAPTREE_VM in its environment is the same, and SNAPTREE_SNAPSHOT the snapshot's name. There is no
shell between. What it prints goes to standard error; standard output is a table of how each ended. TIME is the
command's own. The exit code is 0 where all commands ended with 0, else 1. Ctrl-C ends the commands and removes the
forks.""",
    arguments=arguments,
    act=act,
    usage="snaptree each [-h] [--jobs N] [--keep-failed] [--json] VM (--leaves | NAME...) -- COMMAND...",
    examples=(
        "snaptree each dev --leaves -- ./run-tests.sh {vm}",
        "snaptree each dev ready upgraded --jobs 4 --keep-failed -- sh -c 'ssh-to.sh \"$SNAPTREE_VM\" make check'",
    ),
    passes_on=True,
)
