"""A lost catalog comes back from the lineage file, or from the images alone; and what a repair plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from tests.unit.engine.tables import DEVICES, MOMENT_NS, book, disk, entry, id_of, snapshot, whole

from snaptree.catalog.catalog import Current
from snaptree.catalog.history import Journal
from snaptree.catalog.lineage import Lineage
from snaptree.engine.check import Book
from snaptree.engine.check_findings import Finding
from snaptree.engine.check_images import Examined
from snaptree.engine.rebuild import free_name, rebuild
from snaptree.engine.repair_plan import Kind, plan
from snaptree.model.ids import NIL
from snaptree.model.names import NAME_MAX

ONE = snapshot(1, "one")
TWO = snapshot(2, "two", parent=ONE.id)
LOST = Finding("catalog-lost", "The catalog is lost.", "Repair it.")


def lost(lineage: Lineage | None) -> Book:
    return Book("dev", catalog_problem=LOST, lineage=lineage)


def steps(known: Book, disks: list[Examined]) -> list[tuple[str, str | None]]:
    return [
        (step.kind, step.snapshot.name if step.snapshot else step.tag or None)
        for step in plan(known, disks, DEVICES).steps
    ]


def test_with_the_lineage_file_a_catalog_comes_back_exactly() -> None:
    renamed = replace(TWO, name="other", description="text", parent_id=NIL, flaw="b lost it.", automatic=True)
    lineage = Lineage((ONE, renamed), ONE.id, 0, began_ns=MOMENT_NS)
    found = rebuild(lineage, whole(ONE, TWO), DEVICES)
    assert found.snapshots == (ONE, renamed)
    assert found.current == Current(ONE.id)
    assert (found.source, found.remnants) == ("lineage", ())


def test_from_the_images_alone_come_ids_names_parents_dates_clocks() -> None:
    found = rebuild(None, whole(TWO, ONE), DEVICES)
    assert found.snapshots == (ONE, TWO)
    assert not found.current.known
    assert found.current.why
    assert found.source == "images"


@pytest.mark.parametrize("memory", ["full", "pages", "none"])
def test_the_images_tell_how_ram_is_kept(memory: str) -> None:
    made = snapshot(1, memory=memory)
    if memory == "none":
        made = replace(made, vm_clock_ns=0, vm_state_size=0, vmstate_device="")
    assert rebuild(None, whole(made), DEVICES).snapshots == (made,)


def test_a_lost_parent_stays_named() -> None:
    orphan = snapshot(3, parent=id_of(9))
    (found,) = rebuild(None, whole(orphan), DEVICES).snapshots
    assert found.parent_id == id_of(9)


def test_the_newer_of_two_equal_names_gets_a_suffix() -> None:
    first, second, third = snapshot(1, "x"), snapshot(2, "x"), snapshot(3, "x-2")
    found = rebuild(None, whole(third, second, first), DEVICES)
    assert [(s.id, s.name) for s in found.snapshots] == [
        (first.id, "x"),
        (second.id, "x-2"),
        (third.id, "x-2-2"),
    ]


def test_a_free_name_is_always_a_name() -> None:
    assert free_name("x", []) == "x"
    assert free_name("x" * NAME_MAX, ["x" * NAME_MAX]) == "x" * (NAME_MAX - 2) + "-2"
    assert free_name("1e", ["1e"]) == "1e-2-new"


def test_from_the_images_alone_a_part_is_a_snapshot_that_is_not_whole() -> None:
    half = [whole(ONE)[0], disk("b")]
    found = rebuild(None, half, DEVICES)
    assert [s.name for s in found.snapshots] == ["one"]
    assert [d.device for d in found.snapshots[0].devices] == ["a", "b"]
    assert steps(lost(None), half) == [
        ("rebuild-catalog", None),
        ("mark-inconsistent", "one"),
        ("rewrite-lineage", None),
    ]


def test_a_part_that_a_whole_lineage_file_does_not_know_is_a_remnant() -> None:
    a = disk("a", entry(ONE, vm_state_size=9), entry(TWO, "2"))
    b = disk("b", entry(ONE))
    lineage = Lineage((ONE,), ONE.id, 0, began_ns=MOMENT_NS)
    assert steps(book(ONE, lineage=lineage), [a, b]) == [("remove-remnant", TWO.tag)]
    (step,) = plan(book(ONE, lineage=lineage), [a, b], DEVICES).steps
    assert step.removes
    assert step.devices == ("a",)
    assert TWO.tag in step.message
    assert steps(lost(lineage), [a, b]) == [("rebuild-catalog", None), ("remove-remnant", TWO.tag)]


@pytest.mark.parametrize(
    "lineage",
    [
        Lineage((ONE,), ONE.id, 1, began_ns=MOMENT_NS),
        Lineage((ONE,), ONE.id, 0, began_ns=TWO.created_ns + 10**9),
        Lineage((ONE,), ONE.id, 0),
        None,
    ],
    ids=["lines lost", "younger", "without a line", "none"],
)
def test_a_part_that_somebody_may_have_made_is_never_removed(lineage: Lineage | None) -> None:
    a = disk("a", entry(ONE, vm_state_size=9), entry(TWO, "2"))
    kinds = [kind for kind, _ in steps(book(ONE, lineage=lineage), [a, disk("b", entry(ONE))])]
    assert "remove-remnant" not in kinds
    assert "add-snapshot" in kinds
    assert "mark-inconsistent" in kinds


def test_nothing_is_removed_while_an_image_cannot_be_read() -> None:
    unreadable = replace(disk("b"), table=None, problem="It is gone.")
    kinds = [kind for kind, _ in steps(book(), [disk("a", entry(TWO)), unreadable])]
    assert kinds == ["add-snapshot"]


def test_a_deleted_snapshot_that_is_in_the_images_again_comes_back_as_it_was() -> None:
    renamed = replace(TWO, name="other")
    known = book(ONE, lineage=Lineage((ONE,), ONE.id, 0, deleted=(renamed,), began_ns=MOMENT_NS))
    assert steps(known, whole(ONE, TWO)) == [("add-snapshot", "other")]


def test_what_is_whole_needs_no_step() -> None:
    assert steps(book(ONE, TWO), whole(ONE, TWO)) == []
    assert steps(book(lineage=None), [disk("a"), disk("b")]) == []


def test_foreign_snapshots_are_never_touched() -> None:
    assert steps(book(), [disk("a", entry("x"), entry("1")), disk("b")]) == []


def test_a_whole_snapshot_that_the_catalog_does_not_know_is_taken_in() -> None:
    assert steps(book(ONE), whole(ONE, TWO)) == [("add-snapshot", "two")]


def test_what_cannot_be_whole_is_marked_once_and_unmarked_when_it_is_whole_again() -> None:
    half = [whole(ONE)[0], disk("b")]
    (step,) = plan(book(ONE), half, DEVICES).steps
    assert step.kind == "mark-inconsistent"
    assert "b does not hold" in step.flaw
    marked = replace(ONE, flaw=step.flaw)
    assert steps(book(marked), half) == []
    assert steps(book(marked), whole(ONE)) == [("mark-whole", "one")]


def test_nothing_is_marked_for_an_image_that_cannot_be_read() -> None:
    unreadable = replace(disk("b"), table=None, problem="It is gone.")
    assert steps(book(ONE), [whole(ONE)[0], unreadable]) == []


def test_a_snapshot_under_way_is_left_to_its_operation() -> None:
    journal = Journal("create", 0, "me", {"snapshot": {"id": TWO.id, "name": "two"}})
    a = disk("a", entry(ONE, vm_state_size=9), entry(TWO, "2"))
    assert steps(book(ONE, journal=journal), [a, disk("b", entry(ONE))]) == [("end-operation", None)]
    assert steps(book(ONE, journal=journal), whole(ONE, TWO)) == [("end-operation", None)]


def test_a_damaged_lineage_file_is_written_anew_last() -> None:
    known = lost(Lineage((ONE,), ONE.id, 2, current_sure=False))
    assert steps(known, whole(ONE)) == [("rebuild-catalog", None), ("rewrite-lineage", None)]
    rebuilt = plan(known, whole(ONE), DEVICES).rebuilt
    assert rebuilt is not None
    assert not rebuilt.current.known


@pytest.mark.parametrize(
    ("current", "known"), [(ONE.id, True), (NIL, True), ("", False), (id_of(7), False)], ids=["one", "nil", "?", "gone"]
)
def test_current_is_what_the_lineage_says_and_never_a_guess(current: str, known: bool) -> None:
    found = rebuild(Lineage((ONE,), current, 0), whole(ONE), DEVICES).current
    assert found.known == known
    assert bool(found.why) != known


def test_every_kind_of_step_is_in_the_documents() -> None:
    docs = Path(__file__).parents[3] / "docs"
    for kind in get_args(Kind):
        assert f"| `{kind}` |" in (docs / "check.md").read_text(encoding="utf-8")
        assert f"`{kind}`" in (docs / "json.md").read_text(encoding="utf-8")
