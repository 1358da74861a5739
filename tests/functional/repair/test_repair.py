"""repair on real images: what was lost comes back, what cannot be whole is marked, nothing is removed unnamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.framework.atrest import FULL, LAST, PAGED, AtRest, flip

NIL = "00000000-0000-0000-0000-000000000000"


def plan_of(dev: AtRest) -> list[tuple[str, str | None]]:
    done = dev.repair("--json")
    document = json.loads(done.stdout)
    assert done.returncode == (4 if document["steps"] else 0)
    assert not any(step["done"] for step in document["steps"])
    return [(step["kind"], step["snapshot"]) for step in document["steps"]]


def mended(dev: AtRest) -> dict[str, Any]:
    done = dev.repair("--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["done"]
    assert all(step["done"] for step in document["steps"])
    assert plan_of(dev) == []
    return document


def without_times(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in snapshot.items() if name != "current"} for snapshot in listed]


def test_nothing_to_repair(dev: AtRest) -> None:
    done = dev.repair()
    assert (done.returncode, done.stdout) == (0, "nothing to repair\n")


@pytest.mark.parametrize("how", ["gone", "cut", "text"])
def test_a_catalog_comes_back_exactly_from_the_lineage_file(dev: AtRest, how: str) -> None:
    dev.vm.cli("rename", "dev", PAGED, "other")
    dev.vm.cli("describe", "dev", "other", "more text")
    before, file = dev.listed(), dev.home / "catalog.sqlite"
    damaged = None
    if how == "gone":
        file.unlink()
    else:
        damaged = file.read_bytes()[:5000] if how == "cut" else b"text" * 1000
        file.write_bytes(damaged)
    assert plan_of(dev) == [("rebuild-catalog", None)]
    assert mended(dev)["ok"]
    assert dev.listed() == before
    assert dev.codes("dev") == set()
    kept = dev.home / "catalog.sqlite.damaged-1"
    assert (kept.read_bytes() if kept.exists() else None) == damaged
    assert dev.vm.cli_json("log", "dev")[-1]["action"] == "repair"


def test_from_the_images_alone_come_ids_first_names_parents_dates_and_clocks(dev: AtRest) -> None:
    before = dev.listed()
    dev.vm.cli("rename", "dev", PAGED, "other")
    for name in ("catalog.sqlite", "lineage"):
        (dev.home / name).unlink()
    assert [kind for kind, _ in plan_of(dev)] == ["rebuild-catalog", "rewrite-lineage"]
    assert mended(dev)["ok"]
    after = dev.listed()
    for old, new in zip(before, after, strict=True):
        for member in ("id", "name", "parent_id", "parent_name", "date", "created", "vm_clock", "memory", "consistent"):
            assert new[member] == old[member], member
        assert [(d["device"], d["file"], d["size"]) for d in new["devices"]] == [
            (d["device"], d["file"], d["size"]) for d in old["devices"]
        ]
    assert not any(snapshot["current"] for snapshot in after)
    status = dev.vm.cli_json("status", "dev")
    assert not status["current"]["known"]
    assert dev.codes("dev") == set()
    # What the lineage file holds now is enough once more.
    (dev.home / "catalog.sqlite").unlink()
    mended(dev)
    assert dev.listed() == after


def test_a_lost_parent_and_equal_names_are_no_damage(dev: AtRest) -> None:
    vm = dev.vm
    vm.cli("delete", "dev", PAGED)
    vm.cli("rename", "dev", LAST, "kept")
    vm.cli("create", "dev", LAST)  # of disks only, under the first name of the other
    for name in ("catalog.sqlite", "lineage"):
        (dev.home / name).unlink()
    assert mended(dev)["ok"]
    found = {snapshot["name"]: snapshot for snapshot in dev.listed()}
    assert set(found) == {FULL, LAST, f"{LAST}-2"}
    assert found[LAST]["parent_id"] == dev.ids[PAGED]
    assert found[LAST]["parent_name"] == ""
    assert found[f"{LAST}-2"]["memory"] == "none"
    assert ("lost-parent", LAST, None) in dev.codes("dev")
    assert dev.check("dev")[1]["ok"]


def test_after_a_repair_the_vm_runs_and_every_snapshot_loads(dev: AtRest) -> None:
    for name in ("catalog.sqlite", "lineage"):
        (dev.home / name).unlink()
    mended(dev)
    vm = dev.vm
    vm.run()
    for name in (PAGED, FULL, LAST):
        vm.cli("load", "--discard", "dev", name)
        vm.assert_guest_ok()
    vm.cli("stop", "--discard", "dev")


def test_a_catalog_of_a_newer_version_is_refused(dev: AtRest) -> None:
    dev.sql("PRAGMA user_version = 99")
    before = (dev.home / "catalog.sqlite").read_bytes()
    done = dev.repair("--yes")
    assert done.returncode == 4
    assert "newer" in done.stderr
    assert (dev.home / "catalog.sqlite").read_bytes() == before


def test_a_snapshot_that_the_catalog_does_not_know_is_taken_in_as_it_was(dev: AtRest) -> None:
    before = dev.listed()
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)
    assert plan_of(dev) == [("add-snapshot", LAST)]
    mended(dev)
    assert without_times(dev.listed()) == without_times(before)


def test_what_cannot_be_whole_is_marked_shown_and_can_be_deleted(dev: AtRest) -> None:
    dev.img("-d", dev.tags[FULL], str(dev.b))
    assert plan_of(dev) == [("mark-inconsistent", FULL)]
    assert not mended(dev)["ok"]
    shown = dev.vm.cli_json("show", "dev", FULL)
    assert not shown["consistent"]
    assert "virtio1 does not hold" in shown["flaw"]
    dev.vm.cli("delete", "dev", FULL)
    assert dev.codes("dev") == set()


def test_a_mark_goes_when_the_snapshot_is_whole_again(dev: AtRest) -> None:
    whole = dev.b.read_bytes()
    dev.img("-d", dev.tags[FULL], str(dev.b))
    mended(dev)
    dev.b.write_bytes(whole)
    assert plan_of(dev) == [("mark-whole", FULL)]
    assert mended(dev)["ok"]
    assert dev.vm.cli_json("show", "dev", FULL)["flaw"] == ""


def test_a_snapshot_without_its_pages_is_marked(dev: AtRest) -> None:
    (dev.home / "pages" / f"{dev.ids[LAST]}.index").unlink()
    assert plan_of(dev) == [("mark-inconsistent", LAST)]
    mended(dev)
    assert not dev.vm.cli_json("show", "dev", LAST)["consistent"]


def test_the_remnant_of_a_failed_create_is_named_and_removed(dev: AtRest) -> None:
    tag = f"half@11111111-1111-4111-8111-111111111111^{NIL}"
    dev.img("-c", tag, str(dev.b))
    assert plan_of(dev) == [("remove-remnant", tag)]
    shown = dev.repair()
    assert shown.returncode == 4
    assert tag in shown.stdout
    assert "virtio1" in shown.stdout
    assert mended(dev)["ok"]
    assert tag not in dev.vm.tool("qemu-img", "snapshot", "-l", str(dev.b)).stdout


def test_pages_that_nobody_knows_are_named_and_freed(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-d", dev.tags[LAST], str(image))
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)
    before = dev.listed()
    assert plan_of(dev) == [("free-pages", None)]
    assert dev.ids[LAST] in dev.repair().stdout
    mended(dev)
    assert dev.codes("dev") == set()
    assert dev.listed() == before


def test_foreign_snapshots_are_left_alone(dev: AtRest) -> None:
    dev.img("-c", "theirs", str(dev.b))
    assert plan_of(dev) == []
    assert "theirs" in dev.vm.tool("qemu-img", "snapshot", "-l", str(dev.b)).stdout


def test_a_damaged_lineage_file_is_written_anew_and_kept(dev: AtRest) -> None:
    flip(dev.home / "lineage", 100)
    damaged = (dev.home / "lineage").read_bytes()
    assert plan_of(dev) == [("rewrite-lineage", None)]
    assert mended(dev)["ok"]
    assert (dev.home / "lineage.damaged-1").read_bytes() == damaged
    before = dev.listed()
    (dev.home / "catalog.sqlite").unlink()
    mended(dev)
    assert dev.listed() == before


def test_without_a_yes_nothing_is_changed(dev: AtRest) -> None:
    (dev.home / "catalog.sqlite").unlink()
    before = {path for path in dev.home.rglob("*") if path.name != "lock"}
    done = dev.repair()
    assert done.returncode == 4
    assert "from the lineage file" in done.stdout
    assert "--yes" in done.stderr
    assert {path for path in dev.home.rglob("*") if path.name != "lock"} == before


def test_a_vm_that_runs_is_refused_with_the_remedy(dev: AtRest) -> None:
    dev.vm.run()
    try:
        done = dev.repair("--yes")
        assert done.returncode == 4
        assert "snaptree check dev" in done.stderr
        assert dev.vm.cli("check", "dev").returncode == 0
        qmp = dev.vm.qmp().execute("query-snapshot-check", {"fast": True})
        assert qmp["ok"]
    finally:
        dev.vm.cli("stop", "--discard", "dev")
