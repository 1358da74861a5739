"""The manual page ``snaptree.1``, in roff, from the same words as --help: ``python -m snaptree.cli.man > snaptree.1``.

Not for: anything that --help, the errors or the places don't say themselves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from ..model.errors import exit_codes
from .commands import COMMANDS, DESCRIPTION, find

ENVIRONMENT = {
    "SNAPTREE_HOME": "The directory of all VMs. Without it, snaptree in XDG_STATE_HOME, or in ~/.local/state.",
    "XDG_RUNTIME_DIR": "Sockets are in snaptree/VM/ below it. Without it, in run/VM/ below the home.",
    "NO_COLOR": "Set to anything, nothing is printed in colour.",
}

FILES = {
    "vms/VM/catalog.sqlite": "The catalog of a VM: snapshots, the current one, history.",
    "vms/VM/step": "How far the last load has come, for the next supervisor if this one ends in it.",
    "vms/VM/lineage": "What disk images cannot hold of it, as text: names, parents, descriptions as they changed.",
    "vms/VM/command.json": "QEMU's command line, its working directory, and the disks.",
    "emulators.json": "What QEMU programs have said about themselves; it may be removed.",
    "vms/VM/supervisor.log, qemu.log, qmp.log": "What happened.",
}


def page(version: str) -> str:
    """Return the manual page."""
    return "".join(line + "\n" for line in _page(version))


def _page(version: str) -> Iterator[str]:
    yield f'.TH SNAPTREE 1 "" "snaptree {_escape(version)}" "User Commands"'
    yield from _section("NAME")
    yield r"snaptree \- snapshots of running QEMU virtual machines, as a tree"
    yield from _section("SYNOPSIS")
    for name in COMMANDS:
        yield from _synopsis(name)
    yield from _section("DESCRIPTION")
    yield from _text(DESCRIPTION)
    yield from _section("COMMANDS")
    for name in COMMANDS:
        yield from _command(name)
    yield from _section("EXIT STATUS")
    yield from _terms((str(code), f"{meaning[0].upper()}{meaning[1:]}.") for code, meaning in exit_codes().items())
    yield from _section("ENVIRONMENT")
    yield from _terms(ENVIRONMENT.items())
    yield from _section("FILES")
    yield from _text("Below the home, which is $SNAPTREE_HOME, or ~/.local/state/snaptree:")
    yield from _terms(FILES.items())
    yield from _section("SEE ALSO")
    yield r".BR qemu (1), qemu\-img (1), qmp\-shell (1)"


def _synopsis(name: str) -> Iterator[str]:
    usage = " ".join(find(name).parser().format_usage().removeprefix("usage: ").split())
    words = usage.removeprefix(f"snaptree {name}").replace(" [-h]", "", 1)
    yield f".B snaptree {name}"
    yield _escape(words.strip())
    yield ".br"


def _command(name: str) -> Iterator[str]:
    command = find(name)
    yield f'.SS "snaptree {name}"'
    yield from _text(command.description)
    for action in command.parser()._actions:
        if action.dest != "help":
            yield from _terms([(_title(action), _sentence(action.help or ""))])
    if command.examples:
        yield from (".PP", "Examples:", ".PP", ".nf", ".RS 4")
        yield from map(_escape, command.examples)
        yield from (".RE", ".fi")


def _title(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if not action.option_strings:
        return metavar
    return ", ".join(f"{option} {metavar}".strip() for option in action.option_strings)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _section(title: str) -> Iterator[str]:
    yield f".SH {title}"


def _terms(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    for title, text in terms:
        yield ".TP"
        yield f".B {_escape(title)}"
        yield from _text(text)


def _text(text: str) -> Iterator[str]:
    yield from map(_escape, text.splitlines())


def _escape(text: str) -> str:
    """Return text that roff prints as it is: a period or a quote at the start of a line would be a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return r"\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    from .. import __version__

    sys.stdout.write(page(__version__))
