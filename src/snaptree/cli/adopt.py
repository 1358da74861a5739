"""``snaptree adopt``: take a snapshot that others took into the tree.  Not for: what may be adopted."""

from __future__ import annotations

import argparse

from . import output, progress
from .changes import changing
from .command import Command, Parser, add_json, add_no_wait, add_vm
from .human import clean
from .outcome import short


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("tag", metavar="TAG", help="its tag in the images; `snaptree list --foreign` shows it")
    parser.add_argument("--as", dest="name", metavar="NAME", required=True, help="its name in the tree")
    parser.add_argument("-m", "--message", metavar="TEXT", help="a description")
    add_no_wait(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Adopt it, and say so."""
    with changing(args.vm) as vm, progress.shown(f"adopting {args.name}"):
        done = vm.adopt(args.tag, args.name, args.message, wait=not args.no_wait)
    if args.json:
        output.document(done)
    else:
        kept = "disks only" if done["memory"] == "none" else "with RAM"
        root = ", as a root: what it descends from nobody knows" if not done["parent_name"] else ""
        output.say(f"adopted {clean(done['tag'])} as {done['name']} ({short(done['id'])}), {kept}{root}")
    return 0


COMMAND = Command(
    name="adopt",
    description="""\
Take a snapshot that others took (savevm, virsh, qemu-img) into the tree; then it can be loaded, shown, renamed and
deleted as any. It keeps its tag in the images, which QEMU cannot change. Only what is one moment of the whole VM is
adopted: on every device, once, with the same VM clock and date, and under a tag that QEMU takes for nothing else.
Otherwise it is refused, with every reason. Works on a stopped VM too.""",
    arguments=arguments,
    act=act,
    examples=("snaptree list dev --foreign", "snaptree adopt dev vm-20261124091203 --as before-snaptree"),
)
