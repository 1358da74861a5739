"""``snaptree completion``: what a shell needs to complete our command lines.  Not for: installing it."""

from __future__ import annotations

import argparse

from . import output
from .command import Command, Parser

SHELLS = ("bash", "zsh", "tcsh")

# The folders' names are the VMs' names; reading them takes no time, while asking us would take 0.1 s at each TAB.
_BASH = """\
_snaptree_complete_vm() {
  local home=${SNAPTREE_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/snaptree}
  compgen -W "$(command ls -- "$home/vms" 2>/dev/null)" -- "$1"
}
_snaptree_complete_name() {
  local names
  names=$(snaptree list "${COMP_WORDS[2]}" 2>/dev/null | sed -n '1d; s/^[* ]  \\([^ ]*\\) .*/\\1/p')
  compgen -W "$names" -- "$1"
}
"""
_ZSH = """\
_snaptree_complete_vm() {
  local home=${SNAPTREE_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/snaptree}
  compadd -- "$home"/vms/*(N/:t)
}
_snaptree_complete_name() {
  local -a names
  names=(${(f)"$(snaptree list "${words[2]}" 2>/dev/null | sed -n '1d; s/^[* ]  \\([^ ]*\\) .*/\\1/p')"})
  compadd -- $names
}
"""


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or tcsh")


def act(args: argparse.Namespace) -> int:
    """Print it."""
    output.write(script(args.shell) + "\n")
    return 0


def script(shell: str) -> str:
    """Return the completion script for a shell."""
    import shtab  # noqa: PLC0415

    from .commands import COMMANDS, whole_parser  # noqa: PLC0415  they import this file

    parser = whole_parser(arguments=True)
    for action in _all_actions(parser):
        # A NAME that can be left out is one that exists; create's is new.
        if action.dest == "vm" or (action.dest == "name" and action.nargs == "?"):
            kind = f"_snaptree_complete_{action.dest}"
            vars(action)["complete"] = {"bash": kind, "zsh": kind}  # where shtab looks
        elif action.dest == "about":
            action.choices = tuple(COMMANDS)
    preamble = {"bash": _BASH, "zsh": _ZSH}
    return shtab.complete(parser, shell, preamble=preamble)  # type: ignore[arg-type]  # takes both


def _all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found: list[argparse.Action] = []
    parsers = [parser]
    for known in parsers:
        for action in known._actions:
            found.append(action)
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
    return found


COMMAND = Command(
    name="completion",
    description="Print what a shell needs to complete our command lines: commands, options, VMs and snapshots.",
    arguments=arguments,
    act=act,
    examples=(
        "snaptree completion bash > ~/.local/share/bash-completion/completions/snaptree",
        "snaptree completion zsh > ~/.zfunc/_snaptree",
    ),
)
