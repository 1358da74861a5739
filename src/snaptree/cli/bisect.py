"""``snaptree bisect``: the first snapshot of a line for whose fork a command fails.  Not for: running it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..model.errors import Refused, SnaptreeError, from_code
from ..model.names import printable
from ..model.snapshot import SnapshotJSON
from . import forkrun, output, progress
from .command import Command, Parser, add_json, add_vm
from .each import named
from .forkrun import Outcome
from .human import clean, counted, duration_text
from .source import find_vm, opened

SKIP = 125
ABORT_MIN = 127

Verdict = Literal["good", "bad", "skip"]


def arguments(parser: Parser) -> None:
    """Add the arguments; the command's own stand after ``--``."""
    add_vm(parser)
    parser.add_argument("good", metavar="GOOD", help="a snapshot for which the command is known to succeed")
    parser.add_argument("bad", metavar="BAD", help="one that descends from it, for which it is known to fail")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Search; print every step, and what was found."""
    words = forkrun.check_words(args.words, f"snaptree bisect {args.vm} GOOD BAD")
    source = find_vm(args.vm)
    with opened(args.vm) as known:
        snapshots = known.snapshots()
    line = line_between(snapshots, *(named(args.vm, snapshots, [name])[0] for name in (args.good, args.bad)))
    if not args.json:
        output.note(f"{counted(len(line) - 2, 'snapshot')} between {clean(args.good)} and {clean(args.bad)}")
    verdicts: dict[int, Verdict] = {}
    steps: list[dict[str, Any]] = []
    while (position := next_step(len(line), verdicts)) is not None:
        with progress.shown(f"running {words[0]} for a fork of {line[position]['name']}"):
            (outcome,) = forkrun.run_for_each(source, [line[position]], words, jobs=1)
        verdict = verdicts[position] = judged(outcome)
        steps.append({**outcome.to_json(), "verdict": verdict})
        if not args.json:
            took = duration_text(outcome.duration_ms)
            output.say(f"{outcome.snapshot}: {verdict}, exit code {outcome.exit_code} in {took}")
    candidates = [line[position] for position in suspects(len(line), verdicts)]
    first = candidates[0] if len(candidates) == 1 else None
    if args.json:
        output.document(
            {
                "first_bad": None if first is None else _named(first),
                "candidates": [_named(candidate) for candidate in candidates],
                "steps": steps,
            }
        )
    elif first is not None:
        output.say(f"{first['name']} is the first for which the command fails.")
    else:
        names = ", ".join(candidate["name"] for candidate in candidates)
        output.say(f"The first for which the command fails is one of {names}; nothing in between could be tried.")
    return int(first is None)


def line_between(snapshots: Sequence[SnapshotJSON], good: SnapshotJSON, bad: SnapshotJSON) -> list[SnapshotJSON]:
    """Return the snapshots from one down to another that descends from it, both included.

    :raises Refused: where it doesn't.
    """
    by_id = {snapshot["id"]: snapshot for snapshot in snapshots}
    line: list[SnapshotJSON] = []
    at: SnapshotJSON | None = bad
    while at is not None and len(line) <= len(snapshots):
        line.append(at)
        if at["id"] == good["id"] and len(line) > 1:
            return line[::-1]
        at = by_id.get(at["parent_id"])
    one, other = printable(good["name"]), printable(bad["name"])
    if good["id"] == bad["id"]:
        raise Refused(f"GOOD and BAD are the same snapshot, {one}.", "Name two.")
    raise Refused(
        f"{other} does not descend from {one}, so there is no line between them.",
        "`snaptree tree` shows what descends from what.",
    )


def next_step(length: int, verdicts: Mapping[int, Verdict]) -> int | None:
    """Return which place of the line to try next, halving what is left; ``None`` where all is known that can be.

    Of a line the first is good and the last is bad.
    """
    low, high = _bounds(length, verdicts)
    untried = [position for position in range(low + 1, high) if position not in verdicts]
    return min(untried, key=lambda position: abs(2 * position - low - high)) if untried else None


def suspects(length: int, verdicts: Mapping[int, Verdict]) -> range:
    """Return the places of which one is the first bad one."""
    low, high = _bounds(length, verdicts)
    return range(low + 1, high + 1)


def judged(outcome: Outcome) -> Verdict:
    """Return what an exit code says, as ``git bisect run`` reads it.

    :raises SnaptreeError: where the command could not be run, or wants the search to end.
    """
    if outcome.error is not None:
        raise from_code(**outcome.error)
    code = outcome.exit_code
    if code is None or code >= ABORT_MIN:
        raise SnaptreeError(
            f"The command ended with {code} for {printable(outcome.snapshot)}; nothing was found.",
            f"{ABORT_MIN} and more end the search; a command says bad by 1 to {SKIP - 1}.",
        )
    return "good" if code == 0 else "skip" if code == SKIP else "bad"


def _bounds(length: int, verdicts: Mapping[int, Verdict]) -> tuple[int, int]:
    """Return the last place that is known to be good, and the first that is known to be bad."""
    high = min((position for position, verdict in verdicts.items() if verdict == "bad"), default=length - 1)
    return max((position for position, verdict in verdicts.items() if verdict == "good"), default=0), high


def _named(snapshot: SnapshotJSON) -> dict[str, Any]:
    return {"name": snapshot["name"], "id": snapshot["id"]}


COMMAND = Command(
    name="bisect",
    description="""\
Find the first snapshot for which a command fails, on the line from GOOD down to BAD, which descends from it. Each step
halves what is left: a snapshot is forked, the command runs for the fork, as with `snaptree each`, and the fork is
removed. The exit code 0 is good; 125 says that this one cannot be tried; 1 to 126 else is bad; 127 and more, a signal
too, end the search, as with `git bisect run`. That GOOD is good and BAD is bad is taken for granted.
The exit code is 0 where the first bad one was found, and 1 where what could not be tried leaves several.""",
    arguments=arguments,
    act=act,
    usage="snaptree bisect [-h] [--json] VM GOOD BAD -- COMMAND...",
    examples=("snaptree bisect dev installed broken -- ./run-tests.sh {vm}",),
    passes_on=True,
)
