"""``snaptree check``: are all snapshots whole on all devices?  Not for: mending, which is ``repair``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..model.errors import DamageFound, UsageError
from . import output, progress
from .command import Command, Parser, add_json
from .human import clean, counted
from .paint import Line, Span
from .source import connected, find_vm
from .table import Column, Table, layout

if TYPE_CHECKING:
    from ..engine.check_findings import CellJSON, FindingJSON, ReportJSON


def arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument("vm", metavar="VM", nargs="?", help="the VM's name")
    parser.add_argument(
        "--disk", metavar="IMAGE", action="append", help="check this image, and the others that are given, without a VM"
    )
    parser.add_argument(
        "--fast", action="store_true", help="look whether all pages of RAM are there, without reading them"
    )
    add_json(parser)


def act(args: argparse.Namespace) -> int:
    """Check, and print what was found."""
    report = _report(args)
    if args.json:
        output.document(report)
    else:
        output.lines(render(report))
    return 0 if report["ok"] else DamageFound.exit_code


def _report(args: argparse.Namespace) -> ReportJSON:
    if (args.vm is None) == (not args.disk):
        raise UsageError(
            "Either a VM or images are checked, and neither is given."
            if args.vm is None
            else "A VM and --disk are given.",
            "Give the VM's name, or --disk IMAGE for each of its disks.",
        )
    if args.disk:
        from ..engine.check_run import check_files  # noqa: PLC0415  the qcow2 reader

        return check_files(args.disk).to_json()
    place = find_vm(args.vm)
    with progress.shown(f"checking {place.name}"):
        if place.state().state == "supervised":
            with connected(place) as client:
                answer: ReportJSON = client.execute("query-snapshot-check", {"fast": args.fast})
                return answer
        from ..engine.check_run import check_home  # noqa: PLC0415  SQLite and the qcow2 reader

        return check_home(place, fast=args.fast).to_json()


def render(report: ReportJSON) -> list[Line]:
    """Return the matrix and the findings."""
    lines: list[Line] = []
    if report["snapshots"]:
        lines += layout(_matrix(report))
        lines.append([])
    for finding in report["findings"]:
        lines += _finding(finding)
    damage = sum(finding["severity"] == "damage" for finding in report["findings"])
    snapshots, devices = counted(len(report["snapshots"]), "snapshot"), counted(len(report["devices"]), "device")
    said: Span = (f"{counted(damage, 'finding')} of damage", "bad") if damage else ("no damage", "good")
    lines.append([(f"{snapshots} on {devices}: ", ""), said])
    return lines


def _matrix(report: ReportJSON) -> Table:
    """Return the table: a snapshot a row, a device a column."""
    # A snapshot may have a device that the VM hasn't any more, and the other way round.
    devices = list(dict.fromkeys(cell["device"] for row in report["snapshots"] for cell in row["devices"]))
    unreadable = {disk["device"] for disk in report["devices"] if not disk["readable"]}
    titles = [device.rpartition("/")[2] for device in devices]
    if len(set(titles)) < len(titles):
        titles = devices
    columns = (Column("SNAPSHOT"), Column("RAM"), *(Column(clean(title)) for title in titles), Column("WHOLE"))
    rows = []
    for row in report["snapshots"]:
        cells = {cell["device"]: cell for cell in row["devices"]}
        rows.append(
            [
                (clean(row["name"]) + (" (foreign)" if row["foreign"] else ""), "dim" if row["foreign"] else ""),
                (row["memory"], ""),
                *(("?", "bad") if device in unreadable else _cell(cells.get(device)) for device in devices),
                (output.tick(good=True), "good") if row["ok"] else ("no", "bad"),
            ]
        )
    return Table(columns, rows)


def _cell(cell: CellJSON | None) -> Span:
    if cell is None or not (cell["present"] or cell["expected"]):
        return "", ""
    if not cell["present"]:
        return "-", "bad"
    return (output.tick(good=True), "good") if cell["count"] == 1 else (f"{cell['count']} times", "bad")


def _finding(finding: FindingJSON) -> list[Line]:
    style = "bad" if finding["severity"] == "damage" else "note"
    lines: list[Line] = [[(finding["severity"], style), (f" {finding['code']}: {clean(finding['message'])}", "")]]
    if finding["remedy"]:
        lines.append([(f"  {clean(finding['remedy'])}", "dim")])
    return lines


COMMAND = Command(
    name="check",
    description="""\
Check whether every snapshot is whole on all devices: a table of snapshots and devices, and every kind of damage by its
name, with a remedy. Works on a VM that runs or not, and with --disk on images alone. Nothing is changed. The exit code
is 5 where there is damage; notes (unused space, whole snapshots of others, a lost parent) leave it 0.""",
    arguments=arguments,
    act=act,
    usage="snaptree check [-h] [--fast] [--json] (VM | --disk IMAGE [--disk IMAGE ...])",
    examples=("snaptree check dev", "snaptree check --disk a.qcow2 --disk b.qcow2"),
)
