"""``snaptree stop``: quit QEMU.  Not for: shutting the guest down, which is the guest's."""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..model.errors import ProtocolError, QEMUGone, SnaptreeError
from ..places.places import VMPlace
from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .source import connected, find_vm
from .vms import vm

QEMU_TIMEOUT_S = 5.0
"""How long a QEMU that was asked to quit may take after its supervisor has ended."""


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument(
        "--discard", action="store_true", help="keep nothing of what the VM has become since its current snapshot"
    )
    parser.add_argument("--delete", action="store_true", help="remove a fork whole, with its disks and its snapshots")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Quit QEMU, and return when it and its supervisor are gone; with --delete all else of a fork too."""
    place = find_vm(args.vm)
    if args.delete:
        return _delete(place, as_json=args.json)
    with progress.shown(f"stopping {place.name}"):
        ended = quit_vm(place, keep=not args.discard)
    kept, not_kept = ended.get("kept"), ended.get("not_kept")
    if not_kept:
        output.note(f"The state of {place.name} was not kept: {not_kept}")
    if args.json:
        output.document({**vm(place), "kept": kept})
    else:
        output.say(f"stopped {place.name}" + (f"; its state is kept as {kept}" if kept else ""))
    return 0


def quit_vm(place: VMPlace, *, keep: bool = False) -> dict[str, Any]:
    """Quit a VM's QEMU, and return when it and its supervisor are gone.

    :param keep: take an automatic snapshot first, where the VM has run since its current one.
    :return: ``kept``, the automatic snapshot's name or ``None``, and ``not_kept``, why there is none; or nothing.
    :raises VMNotRunning: where nobody supervises it.
    :raises SnaptreeError: where it still runs.
    """
    with connected(place) as client:
        known = client.execute("query-vm", {})
        ended: dict[str, Any] = {}
        ends = open_ends(pid for pid in (known["supervisor_pid"], known["qemu_pid"]) if pid)
        try:
            # QEMU may be gone before its answer is; what counts is seen below.
            with suppress(ProtocolError, QEMUGone):
                ended = client.execute("vm-stop", {"keep": keep})
            for number, end in enumerate(ends):
                # The supervisor ends after QEMU; where it died before, nobody makes QEMU quit.
                wait_for(end, None if number == 0 else QEMU_TIMEOUT_S)
        finally:
            for end in ends:
                os.close(end)
    require_gone(place, known["qemu_pid"])
    return ended


def _delete(place: VMPlace, *, as_json: bool) -> int:
    from ..engine import offline  # noqa: PLC0415  SQLite

    offline.check_removable(place)
    with progress.shown(f"removing {place.name}"):
        if place.state().state != "stopped":
            quit_vm(place)
        offline.remove_fork(place)
    if as_json:
        output.document({"name": place.name, "deleted": True})
    else:
        output.say(f"removed the fork {place.name}")
    return 0


def open_ends(pids: Iterable[int]) -> list[int]:
    """Return a descriptor for each process that still runs; it becomes readable when that ends (pidfd_open(2))."""
    ends = []
    for pid in pids:
        try:
            ends.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    return ends


def wait_for(end: int, timeout_s: float | None = None) -> None:
    """Wait until the process of a descriptor has ended, or the time is over."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.poll(None if timeout_s is None else timeout_s * 1000)


def require_gone(place: VMPlace, qemu_pid: int | None) -> None:
    """:raises SnaptreeError: where the VM still runs."""
    if place.state().state != "stopped":
        pid = f" (pid {qemu_pid})" if qemu_pid else ""
        raise SnaptreeError(
            f"QEMU of the VM {place.name}{pid} was asked to quit, and it still runs.",
            f"`snaptree vms` shows its state, {place.supervisor_log} what happened.",
        )


COMMAND = Command(
    name="stop",
    description="""\
Quit QEMU, as if the power went off, and return when it is gone and its images are free. What is under way, a create
for example, ends first. The guest is not asked; shut it down from within where that matters.
Where the VM has run since its current snapshot, an automatic one is taken of its last moment, so that `snaptree resume`
goes on exactly there; where none can be taken, it stops all the same, and says why.""",
    arguments=arguments,
    act=act,
    examples=("snaptree stop dev", "snaptree stop --discard dev", "snaptree stop --delete trial"),
)
