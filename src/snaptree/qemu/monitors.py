"""Whether anybody but us can give commands to a QEMU, by its command line.  Not for: what is done with that."""

from __future__ import annotations

from collections.abc import Sequence

from .commandline import Option, analyse, options

_MONITORS = frozenset({"gdb", "mon", "monitor", "qmp", "qmp-pretty", "readconfig"})
"""``-readconfig`` may bring in any of them."""
_SCREENS = frozenset({"display", "vnc", "spice", "curses", "full-screen", "g"})


def reachable(argv: Sequence[str]) -> bool:
    """Say whether another monitor of this QEMU can be reached.

    QEMU makes itself a human monitor by default; where there is neither a terminal nor a screen nobody gets to it.

    :param argv: the command line as the user gave it.
    """
    command = analyse(list(argv))
    given = list(options(argv))
    if any(option.name in _MONITORS or _multiplexed(option) for option in given):
        return True
    if not command.default_monitor:
        return False
    return command.nographic or not _without_screen(given)


def _multiplexed(option: Option) -> bool:
    return option.name in ("serial", "parallel", "debugcon") and (option.value or "").startswith("mon:")


def _without_screen(given: Sequence[Option]) -> bool:
    screens = [option for option in given if option.name in _SCREENS]
    return bool(screens) and all(option.name == "display" and option.value == "none" for option in screens)
