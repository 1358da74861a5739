"""Which snapshots ``each`` and ``bisect`` choose, and what their names and exit codes mean."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from snaptree.cli.bisect import judged, line_between, next_step, suspects
from snaptree.cli.each import leaves
from snaptree.cli.forkrun import Outcome, fork_names
from snaptree.model.errors import NoSuchSnapshot, Refused, SnaptreeError
from snaptree.model.names import check_vm_name

Run = Callable[..., SimpleNamespace]
Make = Callable[..., Any]


def test_leaves_are_those_that_nothing_asked_for_descends_from(snapshot: Make) -> None:
    tree = [
        snapshot(1),
        snapshot(2, 1),
        snapshot(3, 1, automatic=True),
        snapshot(4, 3),
        snapshot(5, 4, automatic=True),
        snapshot(6),
        snapshot(7, 6, automatic=True),
        snapshot(8, 7, automatic=True),
    ]
    assert [leaf["name"] for leaf in leaves(tree)] == ["s2", "s4", "s6"]


def test_a_ring_of_automatic_snapshots_ends_no_search(snapshot: Make) -> None:
    tree = [snapshot(1, 2, automatic=True), snapshot(2, 1, automatic=True), snapshot(3, 1), snapshot(4, 1)]
    assert [leaf["name"] for leaf in leaves(tree)] == ["s3", "s4"]


def test_several_leaves_below_one_automatic_snapshot_make_its_parent_no_leaf(snapshot: Make) -> None:
    tree = [snapshot(1), snapshot(2, 1, automatic=True), snapshot(3, 2), snapshot(4, 2)]
    assert [leaf["name"] for leaf in leaves(tree)] == ["s3", "s4"]


@pytest.mark.parametrize("snapshot_name", ["ready", "Ready.To_go", "._-", "x" * 128, "-"])
def test_a_forks_name_is_a_vms_name_whatever_the_snapshot_is_called(snapshot_name: str) -> None:
    names = fork_names("v" * 63, snapshot_name), fork_names("dev", snapshot_name)
    for _, one, other in zip(range(50), *names, strict=False):
        check_vm_name(one)
        check_vm_name(other)
    assert len(set(fork_names("dev", snapshot_name))) > 900


def test_the_line_goes_from_good_down_to_bad(snapshot: Make) -> None:
    tree = [snapshot(1), snapshot(2, 1), snapshot(3, 2), snapshot(4, 2)]
    assert [each["name"] for each in line_between(tree, tree[0], tree[3])] == ["s1", "s2", "s4"]
    for good, bad in ((3, 0), (2, 3), (1, 1)):
        with pytest.raises(Refused):
            line_between(tree, tree[good], tree[bad])


@pytest.mark.parametrize("length", [2, 3, 4, 9, 100])
def test_the_first_bad_one_is_found_in_as_few_steps_as_halving_takes(length: int) -> None:
    for first_bad in range(1, length):
        verdicts: Any = {}
        while (position := next_step(length, verdicts)) is not None:
            verdicts[position] = "bad" if position >= first_bad else "good"
        assert list(suspects(length, verdicts)) == [first_bad]
        assert len(verdicts) <= (length - 1).bit_length()


def test_what_cannot_be_tried_leaves_those_in_question() -> None:
    verdicts: Any = {}
    while (position := next_step(8, verdicts)) is not None:
        verdicts[position] = "skip" if position in (3, 4) else "bad" if position >= 4 else "good"
    assert list(suspects(8, verdicts)) == [3, 4, 5]


@pytest.mark.parametrize(("code", "verdict"), [(0, "good"), (1, "bad"), (124, "bad"), (126, "bad"), (125, "skip")])
def test_exit_codes_mean_what_they_mean_to_git_bisect_run(code: int, verdict: str) -> None:
    assert judged(Outcome("s1", "1", "f", code)) == verdict


@pytest.mark.parametrize("code", [127, 137, 255])
def test_other_exit_codes_end_the_search(code: int) -> None:
    with pytest.raises(SnaptreeError, match=str(code)):
        judged(Outcome("s1", "1", "f", code))


def test_where_there_was_no_fork_the_search_ends_with_the_reason() -> None:
    error = {"code": "no-such-snapshot", "message": "Gone.", "remedy": ""}
    with pytest.raises(NoSuchSnapshot):
        judged(Outcome("s1", "1", "", error=error))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("each", "dev", "--", "true"), "which snapshots"),
        (("each", "dev", "--leaves", "s1", "--", "true"), "Both --leaves"),
        (("each", "dev", "--leaves", "--jobs", "0", "--", "true"), "--jobs"),
        (("each", "dev", "--leaves"), "No command"),
        (("each", "dev", "--leaves", "--", "no-such-program-here"), "no-such-program-here"),
        (("bisect", "dev", "a", "b"), "No command"),
    ],
)
def test_what_cannot_be_meant_is_usage(words: tuple[str, ...], says: str, snaptree: Run) -> None:
    done = snaptree(*words)
    assert done.code == 2
    assert says in done.err
