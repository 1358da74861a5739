"""A QEMU command line: what of it matters to us, and what we add.  Not for: understanding the rest.

QEMU takes an option with one hyphen or with two; almost every one takes an argument, which is then the next word,
whatever it looks like (``lookup_opt`` in QEMU's softmmu/vl.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..model.names import printable
from ..model.reason import Reason

FLAGS = frozenset(
    """
    h help version audio-help mem-prealloc snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk no-acpi
    no-hpet singlestep one-insn-per-tb preconfig S s enable-kvm xen-attach xen-domid-restrict no-reboot no-shutdown
    daemonize only-migratable nodefaults no-user-config async-teardown enable-sync-profile perfmap jitdump old-param
    semihosting curses sdl enable-fips no-quit alt-grab ctrl-grab tdf no-kvm
    """.split()
)
"""QEMU's options without an argument (qemu-options.hx of 7.2 to 11)."""

_CHARDEV_OPTIONS = frozenset({"serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb"})
_HELP = frozenset({"h", "help", "version", "audio-help"})
_HELP_WORDS = frozenset({"help", "?"})
MONITOR_ID = "snaptree-qmp"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name without hyphens, its argument (empty for a flag), and the words as they were given."""

    name: str
    argument: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What of a command line matters to us.

    :param paused: ``-S``: the user wants to continue the VM himself.
    :param incoming: QEMU waits for a migration.
    :param stdio: the options that use standard input and output.
    :param refused: the options that would go around us, with what to use instead.
    """

    program: str
    options: tuple[Option, ...]
    paused: bool = False
    incoming: bool = False
    stdio: tuple[Option, ...] = ()
    refused: tuple[tuple[Option, str, str], ...] = ()


def options(argv: Sequence[str]) -> Iterator[Option]:
    """Yield the options after the program; a bare word, a disk image, has the name of none."""
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-") or word == "-":
            yield Option("", word, (word,))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        if name in FLAGS:
            yield Option(name, "", (word,))
            continue
        argument = next(words, "")
        yield Option(name, argument, (word, argument))


def analyse(argv: Sequence[str]) -> CommandLine:
    """Return what of a command line matters to us.

    :param argv: the program and its arguments; may be empty.
    """
    found = tuple(options(argv))
    names = {option.name for option in found}
    return CommandLine(
        program=argv[0] if argv else "",
        options=found,
        paused="S" in names,
        incoming="incoming" in names,
        stdio=tuple(option for option in found if _uses_stdio(option, names)),
        refused=tuple((option, *why) for option in found if (why := _refused(option))),
    )


def refusals(command: CommandLine, detached: bool) -> tuple[Reason, ...]:
    """Return every reason why a command line cannot be run under care; empty where it can.

    :param detached: there is no terminal.
    """
    reasons = [
        Reason("command-line", f"The option {printable(str(option))} {why}.", remedy)
        for option, why, remedy in command.refused
    ]
    if detached:
        reasons += [
            Reason(
                "command-line",
                f"The option {printable(str(option))} wants a terminal, and with --detach there is none.",
                "Leave out --detach, or give it a file or a socket: -serial file:PATH, -display none.",
            )
            for option in command.stdio
        ]
    return tuple(reasons)


def with_monitor(argv: Sequence[str], fd: int) -> list[str]:
    """Return the command line with our QMP monitor on a listening socket, and stopped before the first instruction.

    So nothing runs before the disks have been looked at; a QEMU that waits for a migration is left as it is.

    :param fd: the listening socket that QEMU inherits.
    """
    command = analyse(argv)
    id = MONITOR_ID
    while any(f"id={id}" in option.argument.split(",") for option in command.options):
        id += "-"
    added = ["-chardev", f"socket,id={id},fd={fd},server=on,wait=off", "-mon", f"chardev={id},mode=control"]
    if not (command.paused or command.incoming):
        added.append("-S")
    return [*argv, *added]


def _uses_stdio(option: Option, names: set[str]) -> bool:
    backend = option.argument.partition(",")[0]
    match option.name:
        case "nographic":
            # Without devices of its own -nographic puts nothing on the terminal.
            return "nodefaults" not in names
        case "curses":
            return True
        case "display":
            return backend == "curses"
        case "chardev":
            return backend in ("stdio", "backend=stdio")
        case name if name in _CHARDEV_OPTIONS:
            return backend.removeprefix("mon:").removeprefix("chardev:") == "stdio"
    return False


def _refused(option: Option) -> tuple[str, str] | None:
    """Return why an option cannot be had here, and what to use instead."""
    match option.name:
        case "loadvm":
            return (
                "loads by tag or by QEMU's own id, and past the lineage",
                "Leave it out, and then: snaptree load VM NAME.",
            )
        case "snapshot":
            return (
                "writes to throw-away overlays, where every snapshot is lost when QEMU ends",
                "Leave it out; take a snapshot first, and load it when the VM is to be as it was.",
            )
        case "daemonize":
            return "takes QEMU out of our sight", "Use `snaptree run --detach` instead."
        case "preconfig":
            return "stops QEMU before it has built the machine", "Leave it out; -S stops before the first instruction."
        case name if name in _HELP:
            return "makes QEMU print and end", "Ask QEMU itself."
    if option.argument in _HELP_WORDS or option.argument.partition(",")[2] in _HELP_WORDS:
        return "makes QEMU print and end", "Ask QEMU itself."
    return None
