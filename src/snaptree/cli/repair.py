"""``snaptree repair``: make a VM's catalog and snapshots whole again.  Not for: only looking, which is ``check``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..model.errors import Refused
from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .human import clean, counted
from .paint import Line
from .source import find_vm

if TYPE_CHECKING:
    from ..engine.check_findings import Report
    from ..engine.repair import Work
    from ..engine.repair_plan import Step


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Show the plan, ask, and do it."""
    place = find_vm(args.vm)
    from ..engine import repair  # noqa: PLC0415  SQLite and the qcow2 reader
    from ..engine.offline_hold import client_name  # noqa: PLC0415

    with repair.repairing(place) as work:
        doable = [step for step in work.plan.steps if not work.waits(step)]
        if not args.json:
            output.lines(render(work))
        done: list[Step] = []
        after = work.plan.report
        if doable and (args.yes or (not args.json and _agreed())):
            with progress.shown(f"repairing {place.name}"):
                after = repair.perform(work, client=client_name(), done=done.append)
            if not args.json:
                output.say(f"repaired {place.name}: {counted(len(done), 'step')}")
        refused = bool(doable) and not done
        if args.json:
            output.document(document(work, done, after))
            return Refused.exit_code if refused else 0
        if refused:
            raise Refused(
                "Nothing was changed: the plan needs a yes.", f"`snaptree repair {place.name} --yes` does it."
            )
        if doable and not after.ok:
            output.note(f"`snaptree check {place.name}` shows what cannot be mended.")
    return 0


def _agreed() -> bool:
    """Ask on the terminal; without one the answer is no."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty():
        return False
    sys.stderr.write("Do it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def render(work: Work) -> list[Line]:
    """Return the plan for people."""
    steps = work.plan.steps
    if not steps:
        lines: list[Line] = [[("nothing to repair", "good")]]
        if not work.plan.report.ok:
            lines.append([(f"`snaptree check {work.place.name}` shows damage that a repair cannot mend.", "note")])
        return lines
    lines = []
    for number, step in enumerate(steps, 1):
        style = "bad" if step.removes else ""
        lines.append([(f"{number}. ", "dim"), (clean(step.message), style)])
        if work.waits(step):
            remedy = f"   not while QEMU runs: `snaptree attach {work.place.name}` takes it up again"
            lines.append([(remedy, "note")])
    return lines


def document(work: Work, done: list[Step], after: Report) -> dict[str, Any]:
    """Return the document for programs."""
    return {
        "name": work.place.name,
        "done": len(done) == len(work.plan.steps),
        "steps": [step.to_json(done=step in done) for step in work.plan.steps],
        "ok": after.ok,
        "findings": [finding.to_json() for finding in after.findings],
    }


COMMAND = Command(
    name="repair",
    description="""\
Make a VM whole that doesn't run. First the plan is shown; it is done after a yes on the terminal, or with --yes. A
catalog that is lost or damaged is made anew from the lineage file and the images, or from the images alone; the damaged
one is kept beside it. What was cut off is finished or undone, what a failed create left is removed, snapshots that the
catalog doesn't know are taken into it, and what cannot be whole is marked: it stays visible, `show` says why, and it
can be deleted. Nothing is removed that the plan doesn't name. Without a terminal and without --yes the plan is only
shown, and the exit code is 4.""",
    arguments=arguments,
    act=act,
    examples=("snaptree repair dev", "snaptree repair dev --yes"),
)
