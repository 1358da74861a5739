"""The manual and the documents say everything that there is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from snaptree.cli import man
from snaptree.cli.commands import COMMANDS, find
from snaptree.cli.completion import SHELLS, script
from snaptree.model.errors import exit_codes
from snaptree.model.reason import ReasonJSON
from snaptree.model.snapshot import DeviceJSON, SnapshotJSON

DOCUMENT = Path(__file__).parents[3] / "docs" / "json.md"


def shown(page: str) -> str:
    """Return a page as it is read: without roff's escapes."""
    return page.replace(r"\-", "-").replace(r"\&", "").replace(r"\e", "\\")


def options(name: str) -> list[argparse.Action]:
    return [action for action in find(name).parser()._actions if action.dest != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_has_every_command_with_every_argument(name: str) -> None:
    sections = re.split(r'^\.SS "snaptree (\w+)"$', shown(man.page("1")), flags=re.MULTILINE)
    section = dict(zip(sections[1::2], sections[2::2], strict=True))[name]
    for action in options(name):
        for word in action.option_strings or [str(action.metavar)]:
            assert re.search(rf"^\.B .*{re.escape(word)}\b", section, re.MULTILINE), word
        assert action.help
        assert action.help[1:] in section
    for example in find(name).examples:
        assert example in section


def test_the_manual_has_the_exit_codes_of_the_errors() -> None:
    text = shown(man.page("1"))
    status = text[text.index(".SH EXIT STATUS") : text.index(".SH ENVIRONMENT")]
    assert re.findall(r"^\.B (\d+)$", status, re.MULTILINE) == [str(code) for code in exit_codes()]
    for meaning in exit_codes().values():
        assert meaning[1:] in status


def test_no_line_of_text_is_a_request_to_roff() -> None:
    known = {"TH", "SH", "SS", "TP", "B", "BR", "PP", "nf", "fi", "RS", "RE", "br"}
    for line in man.page("1").splitlines():
        assert not line.startswith("'")
        if line.startswith("."):
            assert line[1:].split()[0] in known


def test_the_manual_is_ascii() -> None:
    assert man.page("1").isascii()


def test_every_json_document_is_documented() -> None:
    text = DOCUMENT.read_text()
    headings = {word for line in re.findall(r"^### (.*)$", text, re.MULTILINE) for word in line.split(", ")}
    assert {name for name in COMMANDS if any(action.dest == "json" for action in options(name))} <= headings


@pytest.mark.parametrize("members", [SnapshotJSON, DeviceJSON, ReasonJSON])
def test_every_member_is_documented(members: type) -> None:
    text = DOCUMENT.read_text()
    for member in members.__annotations__:
        assert re.search(rf"^\| `{member}` \|", text, re.MULTILINE), member


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_know_every_command(shell: str) -> None:
    text = script(shell)
    for name in COMMANDS:
        assert name in text
