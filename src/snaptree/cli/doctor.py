"""``snaptree doctor``: what this host can do.  Not for: finding it out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..places.places import Places
from . import output, progress
from .command import Command, Parser, add_json
from .human import clean
from .paint import Line

if TYPE_CHECKING:
    from ..engine.doctor import Finding

_STYLES = {"ok": "good", "limited": "note", "missing": "bad"}


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "qemu",
        metavar="QEMU",
        nargs="?",
        help=f"the QEMU program to look at; without it, {default_qemu()}",
    )
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print it."""
    from ..engine import doctor  # noqa: PLC0415  subprocess

    with progress.shown("looking at this host"):
        found = list(doctor.examine(Places.from_environ(), args.qemu or default_qemu(), Path.cwd()))
    if args.json:
        output.document([finding.to_json() for finding in found])
    else:
        output.lines(render(found))
    return 0


def default_qemu() -> str:
    """Return the name of the QEMU that emulates a machine like this one."""
    return f"qemu-system-{os.uname().machine}"


def render(found: Sequence[Finding]) -> list[Line]:
    """Return the lines: each thing with its state, and its remedy below it."""
    lines: list[Line] = []
    for finding in found:
        lines.append([(finding.state.ljust(8), _STYLES[finding.state]), (clean(finding.message), "")])
        if finding.remedy:
            lines.append([(f"        {clean(finding.remedy)}", "dim")])
    return lines


COMMAND = Command(
    name="doctor",
    description="""\
Say what this host can do: QEMU and what it can, KVM, how written RAM is found, memory, space, permissions. Each line is
ok, limited (it works with less), or missing (snaptree cannot do without), with its remedy.
It changes nothing; the exit code is 0 once it has answered, whatever it says.""",
    arguments=arguments,
    act=act,
    examples=("snaptree doctor", "snaptree doctor ./start-my-qemu.sh"),
)
