"""``snaptree create``: take a snapshot.  Not for: how it is taken."""

from __future__ import annotations

import argparse

from . import output, progress
from .changes import changing
from .command import Command, Parser, add_json, add_no_wait, add_vm
from .outcome import sentence, stopped_sentence


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("name", metavar="NAME", help="the new snapshot's name, unique in the VM")
    parser.add_argument("-m", "--message", metavar="TEXT", help="a description")
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Create it, and say so."""
    with changing(args.vm) as vm, progress.shown(f"creating {args.name}"):
        done = vm.create(args.name, args.message, wait=not args.no_wait)
    if args.json:
        output.document(done)
    elif vm.running:
        output.say(sentence("created", done))
    else:
        output.say(f"{stopped_sentence('created', done)}: disks only, for the VM does not run")
    return 0


COMMAND = Command(
    name="create",
    description="""\
Take a snapshot of the whole VM: all its devices, its device state and its RAM, of one moment.
The VM pauses meanwhile, and runs on if it ran. The snapshot's parent is the current one; then it is current itself.
Of a VM that does not run it takes the disks alone, and says so: such a snapshot is loaded while the VM does not run.
What stands in the way is said before anything is touched; `snaptree status VM` says it too.""",
    arguments=arguments,
    act=act,
    examples=('snaptree create dev before-upgrade -m "clean install"',),
)
