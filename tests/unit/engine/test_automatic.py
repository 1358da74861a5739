"""Automatic snapshots: names that collide with none, and which of them stay."""

from __future__ import annotations

from dataclasses import replace

from snaptree.catalog.catalog import Current
from snaptree.catalog.undo import Undo
from snaptree.engine.automatic import KEPT, automatic_name, before_unchanged, outdated
from snaptree.model.ids import NIL, new_id
from snaptree.model.names import check_name
from snaptree.model.snapshot import Snapshot

NOW_NS = 1795645893 * 10**9


def make(name: str, *, automatic: bool = True) -> Snapshot:
    id = new_id()
    return Snapshot(id, name, NIL, f"{name}@{id}", 1, 2, "pages", 3, "a", (), automatic=automatic)


def test_a_name_says_the_time_in_utc_and_is_never_taken() -> None:
    first = automatic_name(NOW_NS, [])
    assert first == "auto-20261125-223133"
    assert check_name(first) == first
    assert automatic_name(NOW_NS, [first]) == f"{first}-2"
    assert automatic_name(NOW_NS, [first, f"{first}-2"]) == f"{first}-3"
    # The first ones of that second may be gone by now, and others may have named theirs so.
    taken = ["a", f"{first}-9", f"{first}-10", f"{first}-x", f"{first}-1234567890"]
    assert automatic_name(NOW_NS, taken) == f"{first}-11"
    assert automatic_name(NOW_NS, [f"{first}-999999999", f"{first}-1000000000"]) == f"{first}-1000000001"


def test_all_but_the_last_go_and_but_those_that_something_stands_on() -> None:
    snapshots = [make(f"auto-{number}") for number in range(KEPT + 3)]
    mine = make("auto-mine", automatic=False)
    assert outdated([mine, *snapshots], ()) == snapshots[:3]
    assert outdated([mine, *snapshots], {snapshots[1].id, ""}) == [snapshots[0], snapshots[2]]
    assert outdated(snapshots[:KEPT], ()) == []


def test_a_vm_that_has_not_run_goes_back_to_its_current_snapshot_unless_it_goes_nowhere() -> None:
    a, b = make("a"), make("b")
    assert before_unchanged(b, Current(a.id), a).undo == Undo(a.id)
    stays = before_unchanged(a, Current(a.id), a)
    assert (stays.undo, stays.back) == (None, a)
    assert before_unchanged(replace(a, id=b.id), Current(a.id), a).back == a
