from __future__ import annotations

import pytest

from snaptree.qemu.runstates import why_no_create, why_no_load

# qapi/run-state.json of QEMU 10.0, and ours
ALL = [
    "debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate",
    "restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo", "preconfig",
]  # fmt: skip


def test_a_snapshot_can_be_taken_where_the_state_is_whole() -> None:
    assert {state for state in ALL if why_no_create(state) is None} == {
        "running", "paused", "prelaunch", "debug", "watchdog", "io-error", "guest-panicked",
    }  # fmt: skip


def test_after_a_crash_a_failed_load_or_a_power_off_a_snapshot_can_be_loaded() -> None:
    assert {state for state in ALL if why_no_load(state) is not None} == {
        "inmigrate", "postmigrate", "finish-migrate", "save-vm", "colo", "preconfig",
    }  # fmt: skip


@pytest.mark.parametrize("state", [*ALL, "state-of-the-future"])
def test_a_refusal_says_why_and_what_to_do(state: str) -> None:
    for why in (why_no_create(state), why_no_load(state)):
        if why is not None:
            assert not why[0].endswith(".")
            assert why[1].endswith(".")


def test_an_unknown_state_is_refused() -> None:
    assert why_no_create("state-of-the-future") is not None
    assert why_no_load("state-of-the-future") is not None
