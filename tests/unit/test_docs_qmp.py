"""docs/qmp.md says what the server does: commands, arguments, events, codes, refusals, the monitor's lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snaptree.model.errors import Refused, all_errors
from snaptree.server import monitor
from snaptree.server.commands import COMMANDS
from snaptree.server.refusals import check_passing
from snaptree.server.schema import EVENTS, TYPES

TEXT = (Path(__file__).parents[2] / "docs" / "qmp.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    below = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_commands_are_those_of_the_server_with_their_arguments() -> None:
    listed = {
        words(command)[0]: re.findall(r"`([a-z-]+\??)` (\w+|\[\w+\])", arguments)
        for command, arguments, _ in rows("Commands")
    }
    there = {
        name: [(key + "?" * argument.optional, argument.type) for key, argument in command.arguments.items()]
        for name, command in COMMANDS.items()
    }
    assert {name: sorted(arguments) for name, arguments in listed.items()} == {
        name: sorted(arguments) for name, arguments in there.items()
    }


def test_the_events_are_those_of_the_server_with_their_data() -> None:
    assert {words(event)[0]: words(data) for event, data in rows("Events")} == {
        name: list(TYPES[data]) for name, data in EVENTS.items()
    }


def test_every_code_is_one_of_the_error_tree() -> None:
    assert {words(code)[0] for code, _ in rows("Errors")} <= {error.code for error in all_errors()}


@pytest.mark.parametrize("row", rows("What is refused"))
def test_what_is_listed_as_refused_is_refused(row: list[str]) -> None:
    command, *more = words(row[0])
    with pytest.raises(Refused):
        check_passing(command, {"job-id": "j"} if "job-id" in more else {})
    if "transaction" in more:
        with pytest.raises(Refused):
            check_passing("transaction", {"actions": [{"type": command, "data": {}}]})


@pytest.mark.parametrize("line", [line for row in rows("The human monitor") for line in words(row[0])])
def test_the_monitors_lines_are_ours(line: str) -> None:
    # `cont` passes, but where a load has failed half way.
    assert monitor.find(line) is not None or line == "cont"


def test_the_members_of_a_snapshot_in_the_example_are_all_there_are() -> None:
    example = TEXT.split("### query-snapshots, query-snapshot\n")[1].split("```json\n")[1].split("```")[0]
    members = set(re.findall(r'^  "(\w+)":', example, re.MULTILINE))
    assert members == {name for name in TYPES["SnaptreeSnapshot"] if not name.endswith("?")}


@pytest.mark.parametrize(
    ("heading", "type"),
    [("query-vm", "SnaptreeVM"), ("query-snapshot-history", "SnaptreeHistoryEntry")],
)
def test_the_members_of_other_answers_are_all_named(heading: str, type: str) -> None:
    below = TEXT.split(f"### {heading}\n")[1].split("\n#")[0]
    assert set(TYPES[type]) <= set(words(below))
