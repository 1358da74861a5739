"""``snaptree vms``: the VMs under our care.  Not for: other QEMU processes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..model.errors import SnaptreeError
from ..places import forks
from ..places.places import Places, VMPlace
from . import output
from .command import Command, Parser, add_json
from .human import clean
from .paint import Span
from .source import connected
from .table import Column, Table

ASK_TIMEOUT_S = 2.0

_STYLES = {"running": "good", "paused": "note", "unsupervised": "bad", "stopped": "dim"}


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Print them."""
    places = Places.from_environ()
    found = [vm(places.vm(name)) for name in places.vm_names()]
    if args.json:
        output.document(found)
    elif found:
        output.table(render(found, {vm["name"]: forks.beginning(places.vm(vm["name"])) for vm in found}))
    else:
        output.note("There are no VMs; `snaptree run VM -- QEMU ARGS...` makes one.")
    return 0


def vm(place: VMPlace) -> dict[str, Any]:
    """Return what ``vms --json`` says of one VM."""
    known = place.state()
    state: str = known.state
    if state == "supervised":
        state = "running"
        try:
            with connected(place, ASK_TIMEOUT_S) as client:
                state = client.execute("query-vm", {})["state"]
        except SnaptreeError as error:
            # It may have ended since we looked, and then this is no news.
            known = place.state()
            state = "running" if known.state == "supervised" else known.state
            if state == "running":
                output.note(f"snaptree: The supervisor of {place.name} did not answer: {error.message}")
    return {
        "name": place.name,
        "state": state,
        "qmp": known.qmp,
        "qemu_pid": known.qemu_pid,
        "supervisor_pid": known.supervisor_pid,
    }


def render(found: list[dict[str, Any]], begun: Mapping[str, forks.Beginning | None]) -> Table:
    """Return the table, with a column for what forks began with, where there are any.

    :param begun: that of each VM, by its name; ``None`` for one that is no fork.
    """
    some = any(begun.values())
    columns = (
        Column("NAME"),
        *((Column("FORK OF"),) if some else ()),
        Column("STATE"),
        Column("QEMU", right=True),
        Column("SUPERVISOR", right=True),
        Column("QMP"),
    )
    return Table(columns, [_row(item, [_fork_of(begun[item["name"]])] if some else []) for item in found])


def _fork_of(begun: forks.Beginning | None) -> Span:
    return ("-" if begun is None else clean(f"{begun.vm} at {begun.name}"), "")


def _row(item: dict[str, Any], more: list[Span]) -> list[Span]:
    return [
        (item["name"], "bold"),
        *more,
        (item["state"], _STYLES.get(item["state"], "")),
        (str(item["qemu_pid"] or "-"), ""),
        (str(item["supervisor_pid"] or "-"), ""),
        (item["qmp"] or "-", ""),
    ]


COMMAND = Command(
    name="vms",
    description="""\
List the VMs: running, paused, unsupervised (QEMU runs, its supervisor has died: attach it), or stopped.
QEMU and SUPERVISOR are pids.""",
    arguments=arguments,
    act=act,
    examples=("snaptree vms",),
)
