"""The list of all commands.  Not for: any one command."""

from __future__ import annotations

import importlib

from ..model.errors import UsageError
from .command import Command, Parser

COMMANDS = {
    "run": "start QEMU and look after it",
    "attach": "look after a QEMU that runs already",
    "vms": "list the VMs",
    "stop": "quit QEMU",
    "resume": "start a stopped VM so that it goes on from a snapshot",
    "fork": "start more VMs from a snapshot",
    "each": "run a command for a fork of each of several snapshots",
    "bisect": "find the first snapshot for whose fork a command fails",
    "status": "say whether the VM can be snapshotted now",
    "create": "take a snapshot of the whole VM",
    "load": "go back to a snapshot",
    "undo": "go back to where the VM was before its last load",
    "delete": "delete a snapshot from all devices",
    "rename": "give a snapshot another name",
    "adopt": "take a snapshot that others took into the tree",
    "describe": "give a snapshot another description",
    "list": "list the snapshots",
    "tree": "show the lineage of the snapshots",
    "show": "show one snapshot, or the VM, in full",
    "check": "check whether all snapshots are whole on all devices",
    "repair": "make a VM's catalog and snapshots whole again",
    "diff": "show what differs between two snapshots",
    "log": "show what was done with the snapshots",
    "forget": "forget a stopped VM",
    "doctor": "say what this host can do",
    "qmp": "print the address of the VM's QMP socket",
    "completion": "print completions for a shell",
    "help": "explain a command",
}
"""What each command does, in one line; in the order of the help."""

DESCRIPTION = """\
Snapshots of running QEMU virtual machines, as a tree: named, with unique ids and parents, checked across every disk
before anything is touched."""

EPILOG = """\
A VM's name is yours to choose. A bare word is always a name; --id takes an id. `snaptree COMMAND --help` says more.

  snaptree run dev -- qemu-system-x86_64 -m 4G -drive file=a.qcow2,if=virtio
  snaptree create dev before-upgrade -m "clean install"
  snaptree load dev before-upgrade
  snaptree tree dev"""


def find(name: str) -> Command:
    """Return the command of this name; only its own file is imported.

    :raises UsageError: where there is none, and says which ones look alike.
    """
    if name in COMMANDS:
        command: Command = importlib.import_module(f".{name}", __package__).COMMAND
        return command
    import difflib  # noqa: PLC0415  only an error needs it

    from ..model.names import printable  # noqa: PLC0415

    if name.startswith("-"):
        raise UsageError(
            f"There is no option {printable(name)} before the command.",
            "Options of a command stand after it: snaptree COMMAND [OPTIONS].",
        )
    alike = difflib.get_close_matches(name, COMMANDS, 2)
    hint = f"Did you mean {' or '.join(alike)}? " if alike else ""
    raise UsageError(f"There is no command {printable(name)}.", f"{hint}`snaptree --help` lists all.")


def whole_parser(*, arguments: bool) -> Parser:
    """Return the parser of everything.

    :param arguments: with those of every command, for the manual and the completions; the help needs no command's file.
    """
    parser = Parser(prog="snaptree", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("-V", "--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        if arguments:
            command = find(name)
            command.arguments(commands.add_parser(name, help=summary, **command.texts()))
        else:
            commands.add_parser(name, help=summary)
    return parser
