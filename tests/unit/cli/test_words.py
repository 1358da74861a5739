"""The words of a command line: what is understood, and what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from snaptree.cli.command import Command
from snaptree.cli.commands import COMMANDS, find, whole_parser
from snaptree.model.errors import UsageError

Run = Callable[..., SimpleNamespace]


def parsed(*words: str) -> dict[str, Any]:
    return vars(find(words[0]).parser().parse_intermixed_args(words[1:]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file_and_explains_itself(name: str, snaptree: Run) -> None:
    command = find(name)
    assert isinstance(command, Command)
    assert command.name == name
    assert command.description.endswith(".")
    for asked in ((name, "--help"), ("help", name)):
        done = snaptree(*asked)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"usage: snaptree {name}")


def test_the_help_lists_every_command_in_one_line(snaptree: Run) -> None:
    done = snaptree("--help")
    assert done.code == 0
    for name, summary in COMMANDS.items():
        assert f" {name} " in done.out
        assert summary in done.out
        assert not summary.endswith(".")
    assert snaptree("help").out == done.out


def test_the_manuals_parser_has_the_same_commands() -> None:
    assert set(COMMANDS) == set(whole_parser(arguments=True)._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    "words", [("dev", "s1", "--json"), ("dev", "--json", "s1"), ("--json", "dev", "s1"), ("dev", "--json", "--", "s1")]
)
def test_options_stand_anywhere(words: tuple[str, ...]) -> None:
    args = parsed("load", *words)
    assert (args["vm"], args["name"], args["json"]) == ("dev", "s1", True)


def test_a_text_may_begin_with_a_hyphen_after_a_double_one() -> None:
    assert parsed("describe", "dev", "s1", "--", "-x")["description"] == "-x"


def test_options_are_not_guessed_from_their_beginning(snaptree: Run) -> None:
    done = snaptree("delete", "dev", "s1", "--child")
    assert (done.code, done.out) == (2, "")
    assert "--child" in done.err


@pytest.mark.parametrize("command", ["load", "delete", "show"])
def test_a_snapshot_is_named_by_name_or_by_id_and_not_by_both(command: str, snaptree: Run) -> None:
    assert command == "show" or "Neither NAME nor --id" in snaptree(command, "dev").err
    done = snaptree(command, "dev", "s1", "--id", "12345678")
    assert done.code == 2
    assert "Both NAME and --id" in done.err


def test_rename_takes_old_or_id() -> None:
    assert parsed("rename", "dev", "old", "new")["name"] == "old"
    by_id = parsed("rename", "dev", "--id", "12345678", "new")
    assert (by_id["name"], by_id["id"], by_id["new_name"]) == (None, "12345678", "new")


@pytest.mark.parametrize(
    "words",
    [("lst",), ("--json", "list"), (), ("create", "dev"), ("log", "dev", "-n", "0"), ("completion", "fish")],
)
def test_what_is_not_understood_is_usage_and_says_what_would_be_right(words: tuple[str, ...], snaptree: Run) -> None:
    done = snaptree(*words)
    if "--json" in words:
        error = json.loads(done.out)["error"]
        assert (done.code, error["code"]) == (2, "usage")
        assert error["remedy"]
    else:
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("snaptree: ")
        assert len(done.err.splitlines()) == 2


def test_a_mistyped_command_is_recognised() -> None:
    with pytest.raises(UsageError) as error:
        find("lits")
    assert "list" in error.value.remedy


def test_json_failures_are_one_document_on_standard_output(snaptree: Run) -> None:
    done = snaptree("create", "dev", "--json")
    assert (done.code, done.err) == (2, "")
    assert set(json.loads(done.out)["error"]) == {"code", "message", "remedy"}


def test_qemus_words_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses  # noqa: PLC0415

    from snaptree.cli import main, run  # noqa: PLC0415

    seen: list[Any] = []

    def act(args: Any) -> int:
        seen.append((args.vm, args.detach, args.json, args.words))
        return 0

    monkeypatch.setattr(run, "COMMAND", dataclasses.replace(run.COMMAND, act=act))
    assert main.main(["run", "--detach", "dev", "--", "qemu", "--help", "--json", "--", "-m", "1G"]) == 0
    assert main.main(["run", "dev"]) == 0
    assert seen == [("dev", True, False, ["qemu", "--help", "--json", "--", "-m", "1G"]), ("dev", False, False, None)]


def test_run_without_a_command_line_says_where_it_stands(snaptree: Run) -> None:
    for words in (("run", "dev"), ("run", "dev", "--")):
        done = snaptree(*words)
        assert done.code == 2
        assert "snaptree run dev -- qemu" in done.err


def test_run_without_a_double_hyphen_is_usage(snaptree: Run) -> None:
    assert snaptree("run", "dev", "qemu-system-x86_64", "-m", "1G").code == 2
