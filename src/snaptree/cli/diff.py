"""``snaptree diff``: what differs between two snapshots.  Not for: how it is found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import output, progress
from .command import Command, Parser, add_json, add_vm
from .human import clean, counted, size_text
from .paint import Span
from .source import find_vm, opened
from .table import Column, Table

if TYPE_CHECKING:
    from ..engine.differ import DeviceDiff, RAMDiff

PAGE_BYTES = 4096
FIRST = 3
"""Ranges of a device that the table shows."""


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    add_vm(parser)
    parser.add_argument("one", metavar="A", help="a snapshot")
    parser.add_argument("other", metavar="B", help="another one")
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Compare them and print what differs; the exit code is 0 whether anything does or not."""
    place = find_vm(args.vm)
    with opened(args.vm) as source:
        one, other = (source.snapshot(name=name) for name in (args.one, args.other))
    from ..engine import differ, offline  # noqa: PLC0415

    files = {device: disk.file for device, disk in offline.disks_of(place).items()}
    with progress.shown(f"comparing {one['name']} and {other['name']}"):
        ram = differ.diff_ram(place, one, other)
        disks = differ.diff_disks(one, other, files)
    if args.json:
        named = [{"name": snapshot["name"], "id": snapshot["id"]} for snapshot in (one, other)]
        output.document({"a": named[0], "b": named[1], **document(ram, disks)})
    else:
        output.table(render(ram, disks))
    return 0


def document(ram: RAMDiff, disks: Sequence[DeviceDiff]) -> dict[str, Any]:
    """Return what differs, as JSON."""
    pages = sum(block.pages for block in ram.blocks)
    blocks = [
        {"block": block.block, "size": block.size, "pages": block.pages, "bytes": block.pages * PAGE_BYTES}
        for block in ram.blocks
    ]
    return {
        "ram": {
            "why": ram.why,
            "pages": None if ram.why else pages,
            "bytes": None if ram.why else pages * PAGE_BYTES,
            "blocks": blocks,
        },
        "devices": [
            {
                "device": disk.device,
                "file": disk.file,
                "size": disk.size,
                "why": disk.why,
                "bytes": None if disk.why else sum(run.length for run in disk.runs),
                "ranges": [{"offset": run.offset, "length": run.length} for run in disk.runs],
            }
            for disk in disks
        ],
    }


def render(ram: RAMDiff, disks: Sequence[DeviceDiff]) -> Table:
    """Return the table."""
    columns = (
        Column("WHERE"),
        Column("DIFFERS", right=True),
        Column("OF", right=True),
        Column("IN", right=True),
        Column("FIRST", folds=True),
    )
    rows = [_row("RAM", why=ram.why)] if ram.why else []
    for block in ram.blocks:
        rows.append(_row(f"RAM {block.block}", block.pages * PAGE_BYTES, block.size, counted(block.pages, "page")))
    for disk in disks:
        first = ", ".join(f"{size_text(run.length)} at {run.offset:#x}" for run in disk.runs[:FIRST])
        more = ", …" if len(disk.runs) > FIRST and output.is_unicode() else ", ..." if len(disk.runs) > FIRST else ""
        total = sum(run.length for run in disk.runs)
        rows.append(
            _row(disk.device, why=disk.why)
            if disk.why
            else _row(disk.device, total, disk.size, counted(len(disk.runs), "range"), first + more)
        )
    return Table(columns, rows)


def _row(where: str, differs: int = 0, of: int = 0, parts: str = "", first: str = "", *, why: str = "") -> list[Span]:
    if why:
        return [(clean(where), "bold"), ("?", "note"), ("", ""), ("", ""), (clean(why), "note")]
    return [(clean(where), "bold"), (size_text(differs), ""), (size_text(of), "dim"), (parts, ""), (first, "dim")]


COMMAND = Command(
    name="diff",
    description="""\
Say what differs between two snapshots: how many pages of RAM, and which ranges of each disk; --json has every range.
Equal content counts as equal wherever it lies. RAM can be compared where both keep it in pages. Where one of them reads
a range of a disk from the image below, and the other not, that range counts as different.
Works on a running VM and on a stopped one, and disturbs neither.""",
    arguments=arguments,
    act=act,
    examples=("snaptree diff dev before-upgrade upgraded",),
)
