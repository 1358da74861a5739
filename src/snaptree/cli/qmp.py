"""``snaptree qmp``: where the VM's QMP socket is.  Not for: talking to it."""

from __future__ import annotations

import argparse

from . import output
from .command import Command, Parser, add_json, add_vm
from .source import find_vm


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print its address."""
    place = find_vm(args.vm)
    address = f"unix:{place.qmp_socket}"
    if args.json:
        output.document({"qmp": address})
    else:
        output.say(address)
    if place.state().state != "supervised":
        output.note(f"Nobody listens there now; the VM {place.name} is {place.state().state}.")
    return 0


COMMAND = Command(
    name="qmp",
    description="""\
Print the address of the VM's QMP socket as unix:PATH. It serves many clients at once: QEMU's own commands, and those
for snapshots. On a stopped VM it says where the socket will be.""",
    arguments=arguments,
    act=act,
    examples=('socat READLINE "$(snaptree qmp dev)"', 'qmp-shell "$(snaptree qmp dev | cut -c 6-)"'),
)
