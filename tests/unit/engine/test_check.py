"""check, as a pure function: every kind of damage has its name, and what is whole has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.tables import CLOCK_NS, MOMENT_NS, book, disk, entry, id_of, snapshot, whole

from snaptree.catalog.history import Journal
from snaptree.catalog.lineage import Lineage
from snaptree.engine.check import Book, check
from snaptree.engine.check_findings import CODES, Finding
from snaptree.engine.check_images import Examined

ONE = snapshot(1, "one")
TWO = snapshot(2, "two", parent=ONE.id)
EVIL = "ev\x1b[31mil\n"


def found(disks: list[Examined], known: Book | None) -> list[tuple[str, str | None, str | None]]:
    report = check(disks, known)
    for finding in report.findings:
        assert finding.message.isprintable(), finding
        assert finding.message[-1] in ".:", finding
        assert finding.remedy.endswith("."), finding
    assert report.ok == all(finding.severity == "note" for finding in report.findings)
    return [(finding.code, finding.snapshot, finding.device) for finding in report.findings]


def test_what_is_whole_has_no_finding() -> None:
    assert found(whole(ONE, TWO), book(ONE, TWO)) == []
    assert check(whole(ONE, TWO), book(ONE, TWO)).ok
    assert found(whole(ONE, TWO), None) == []


def test_the_matrix_holds_every_snapshot_and_every_device() -> None:
    a, b = whole(ONE)
    report = check([a, replace(b, table=(), kinds=()), disk("c")], book(ONE, TWO))
    rows = report.to_json()["snapshots"]
    assert [(row["name"], row["ok"]) for row in rows] == [("one", False), ("two", False)]
    assert [(d["device"], d["expected"], d["present"]) for d in rows[0]["devices"]] == [
        ("a", True, True),
        ("b", True, False),
        ("c", False, False),
    ]


def test_a_part_that_is_missing_is_named_with_its_device() -> None:
    a, b = whole(ONE, TWO)
    b = disk("b", entry(ONE))
    assert found([a, b], book(ONE, TWO)) == [("missing-on-device", "two", "b")]
    assert found([a, b], None) == [("missing-on-device", "two", "b")]


def test_the_same_tag_twice_is_named() -> None:
    a, b = whole(ONE)
    b = disk("b", entry(ONE), entry(ONE, "2"))
    assert found([a, b], book(ONE)) == [("tag-twice", "one", "b")]
    assert found([a, b], None) == [("tag-twice", "one", "b")]


def test_a_numeric_tag_is_damage_and_says_what_qemu_would_take() -> None:
    disks = [disk("a", entry("2", "1"), entry("x", "2")), disk("b", entry("2", "1"), entry("x", "2"))]
    report = check(disks, None)
    assert [(f.code, f.snapshot) for f in report.findings] == [("numeric-tag", "2"), ("foreign", "x")]
    assert 'means "x" on a, "x" on b' in report.findings[0].message


def test_equal_ids_of_different_foreign_states_are_damage() -> None:
    disks = [disk("a", entry("x", "1"), entry("y", "2")), disk("b", entry("y", "1"), entry("x", "2"))]
    codes = [code for code, _, _ in found(disks, None)]
    assert codes == ["ids-differ", "ids-differ", "foreign", "foreign"]


def test_equal_qemu_ids_of_snapshots_of_ours_are_no_damage() -> None:
    # A disk that came later counts by itself.
    a, b = whole(ONE, TWO)
    b = disk("b", entry(TWO, "1"))
    assert found([a, b], book(replace(ONE, devices=ONE.devices[:1]), TWO)) == []


def test_one_id_of_ours_with_two_tags_is_damage() -> None:
    other = replace(ONE, name="other", tag=ONE.tag.replace("one@", "other@"))
    a, _ = whole(ONE)
    assert ("ids-differ", "other", None) in found([a, disk("b", entry(other))], book(ONE))


def test_another_clock_on_a_device_is_damage_where_there_is_ram() -> None:
    a, _ = whole(ONE)
    b = disk("b", entry(ONE, vm_clock_ns=CLOCK_NS + 1))
    assert found([a, b], book(ONE)) == [("clock-differs", "one", None)]
    assert found([a, b], None) == [("clock-differs", "one", None)]


def test_a_clock_that_is_not_the_recorded_one_is_damage() -> None:
    assert found(whole(ONE), book(replace(ONE, vm_clock_ns=7))) == [("clock-differs", "one", None)]


def test_in_the_catalog_but_on_no_disk() -> None:
    assert found(whole(ONE), book(ONE, TWO)) == [("not-on-any-disk", "two", None)]


def test_on_disks_but_not_in_the_catalog() -> None:
    assert found(whole(ONE, TWO), book(ONE)) == [("not-in-catalog", "two", None)]
    assert found(whole(ONE), None) == []


def test_a_parent_that_is_nowhere_is_a_note() -> None:
    orphan = snapshot(3, "orphan", parent=id_of(9))
    assert found(whole(orphan), book(orphan)) == [("lost-parent", "orphan", None)]
    assert found(whole(orphan), None) == [("lost-parent", "orphan", None)]


def test_no_vm_state_anywhere_is_damage_where_there_was_ram() -> None:
    bare = [disk("a", entry(ONE)), disk("b", entry(ONE))]
    assert found(bare, book(ONE)) == [("no-vm-state", "one", None)]
    assert found(bare, None) == [("no-vm-state", "one", None)]


def test_a_vm_state_on_another_device_than_the_recorded_is_damage() -> None:
    moved = [disk("a", entry(ONE)), disk("b", entry(ONE, vm_state_size=9))]
    assert found(moved, book(ONE)) == [("no-vm-state", "one", "a")]


def test_disks_only_need_no_vm_state_and_may_have_dates_apart() -> None:
    cold = snapshot(1, "cold", memory="none", vm_state_size=0, vmstate_device="", vm_clock_ns=0)
    disks = [disk("a", entry(cold)), disk("b", entry(cold, date_ns=cold.created_ns + 5 * 10**9))]
    assert found(disks, book(cold)) == []
    assert found(disks, None) == []


def test_a_damaged_vm_state_is_named() -> None:
    broken = disk("a", entry(ONE, vm_state_size=9), kinds=("Its VM state does not begin as QEMU's do.",))
    assert found([broken, disk("b", entry(ONE))], book(ONE)) == [("vm-state-damaged", "one", "a")]


def test_an_image_that_cannot_be_read_is_named_once() -> None:
    lost = replace(disk("b"), table=None, problem="It cannot be opened: No such file or directory.")
    assert found([whole(ONE)[0], lost], book(ONE, TWO)) == [
        ("image-unreadable", None, "b"),
        ("missing-on-device", "two", "a"),
    ]


def test_pages_of_bare_images_are_elsewhere() -> None:
    paged = replace(ONE, memory="pages")
    assert found(whole(paged), None) == [("pages-elsewhere", "one", None)]


def test_findings_of_the_page_store_are_among_the_others() -> None:
    paged = replace(ONE, memory="pages")
    missing = Finding("pages-missing", "Its pages are missing.", "Delete it.", "one", paged.id)
    unused = Finding("unused-space", "The store holds 9 bytes that nobody uses.", "Nothing has to be done.")
    assert found(whole(paged), book(paged, pages={paged.id: (missing,)}, more=(unused,))) == [
        ("pages-missing", "one", None),
        ("unused-space", None, None),
    ]


def test_a_mark_is_damage_where_nothing_else_is() -> None:
    assert found(whole(ONE), book(replace(ONE, flaw="b lost it."))) == [("marked-inconsistent", "one", None)]


@pytest.mark.parametrize("code", ["catalog-lost", "catalog-damaged", "catalog-newer"])
def test_without_its_catalog_a_vm_is_checked_by_its_images(code: str) -> None:
    lost = Finding(code, "The catalog is lost.", "Repair it.")
    known = Book("dev", catalog_problem=lost, lineage=Lineage((ONE,), ONE.id, 0))
    assert found(whole(ONE), known) == [(code, None, None)]


def test_the_lineage_file_is_checked() -> None:
    assert found(whole(ONE), book(ONE, lineage=None)) == [("lineage-damaged", None, None)]
    assert found(whole(ONE), book(ONE, lineage=Lineage((), "", 3))) == [("lineage-damaged", None, None)]
    assert found([disk("a")], book(lineage=None)) == []


def test_what_is_half_done_is_named() -> None:
    assert found(whole(ONE), book(ONE, journal=Journal("load", 0, "me", {}), broken="a is at one.")) == [
        ("unfinished-operation", None, None),
        ("load-incomplete", None, None),
    ]


@pytest.mark.parametrize("known", [None, book()], ids=["bare", "VM"])
def test_whole_foreign_snapshots_are_notes(known: Book | None) -> None:
    whole_one = [disk("a", entry("x", vm_state_size=9, vm_clock_ns=1)), disk("b", entry("x", vm_clock_ns=1))]
    assert found(whole_one, known) == [("foreign", "x", None)]
    apart = [disk("a", entry("x")), disk("b", entry("x", date_ns=MOMENT_NS + 5_000_000))]
    assert found(apart, known) == [("foreign", "x", None)]


def test_foreign_snapshots_that_are_mixed_are_damage() -> None:
    assert found([disk("a", entry("x")), disk("b")], None) == [("missing-on-device", "x", "b")]
    later = entry("x", date_ns=MOMENT_NS + 10**10)
    assert found([disk("a", entry("x")), disk("b", later)], None) == [("date-differs", "x", None)]
    state = entry("x", vm_state_size=9, vm_clock_ns=1)
    assert found([disk("a", state), disk("b", entry("x", vm_clock_ns=2))], None) == [("clock-differs", "x", None)]


def test_what_comes_from_outside_is_never_printed_raw() -> None:
    for tag in (EVIL, "\udcff", "x" * 5000, ""):
        disks = [disk("a", entry(tag, EVIL)), disk(EVIL, entry("y", EVIL), entry(tag, EVIL), entry(tag, EVIL))]
        found(disks, book(ONE))
        check(disks, book(ONE)).to_json()


def test_many_snapshots_take_linear_work() -> None:
    many = [snapshot(number) for number in range(1, 3001)]
    assert found(whole(*many), book(*many)) == []


def test_every_code_is_in_the_document_with_its_severity() -> None:
    text = (Path(__file__).parents[3] / "docs" / "check.md").read_text(encoding="utf-8")
    text = text.split("## What is compared")[0]
    damage, notes = text.split("## Damage")[1].split("## Notes")
    for code, (severity, meaning) in CODES.items():
        assert f"| `{code}` | {meaning} |" in (damage if severity == "damage" else notes)
    assert text.count("\n| `") == len(CODES)


def test_the_json_is_as_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "json.md").read_text(encoding="utf-8")
    chapter = text.split("### check\n")[1].split("\n### ")[0]
    value: Any = check(whole(ONE), book(replace(ONE, flaw="x."))).to_json()
    members = [*value, *value["snapshots"][0], *value["snapshots"][0]["devices"][0], *value["findings"][0]]
    for member in members:
        assert f"`{member}`" in chapter, member
    assert value["snapshots"][0]["id"] == ONE.id
