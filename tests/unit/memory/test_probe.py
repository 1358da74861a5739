"""What the host can do is found out by doing it, and what it cannot has a reason and a remedy."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from snaptree.memory import probe, refusal, userfault
from snaptree.memory.probe import Ability, tracker_by

NAMES = ["write-tracking", "tracing", "descriptors", "later-tracing", "memory-files"]


def test_every_ability_is_told_with_a_remedy_exactly_where_it_is_missing() -> None:
    abilities = probe.probe()
    assert [ability.name for ability in abilities] == NAMES
    for ability in abilities:
        assert ability.message.endswith(".")
        assert bool(ability.remedy) != ability.available


def test_this_host_has_all_that_the_other_tests_need() -> None:
    assert tracker_by(probe.probe())[0] == "userfaultfd"


def test_a_kernel_that_lacks_it_is_told_with_the_tracker_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(number: int, *args: int) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(userfault, "syscall", forbidden)
    abilities = probe.probe()
    assert abilities[0] == Ability(
        "write-tracking", False, "userfaultfd(2) is forbidden here: Operation not permitted.", userfault.ALLOW_IT
    )
    name, why = tracker_by(abilities)
    assert name == "compare"
    assert "userfaultfd(2) is forbidden here" in why


@pytest.mark.parametrize(
    ("scope", "uid", "available"), [(0, 1000, True), (1, 1000, False), (1, 0, True), (2, 0, True), (3, 0, False)]
)
def test_yama_decides_about_later_tracing(
    monkeypatch: pytest.MonkeyPatch, scope: int, uid: int, available: bool
) -> None:
    monkeypatch.setattr(probe, "ptrace_scope", lambda: scope)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    found = next(ability for ability in probe.probe() if ability.name == "later-tracing")
    assert found.available == available
    assert ("ptrace_scope" in found.remedy) != available


def test_without_yama_the_scope_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "YAMA", Path("/nowhere"))
    assert refusal.ptrace_scope() == 0
