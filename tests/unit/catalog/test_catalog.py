import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from snaptree.catalog.catalog import Catalog, Current
from snaptree.catalog.history import Entry, Journal
from snaptree.model.errors import CatalogError, NoSuchSnapshot
from snaptree.model.ids import NIL, new_id
from snaptree.model.snapshot import Device, Machine, Snapshot
from snaptree.model.tags import format_tag


def make(name: str, parent_id: str = NIL, created_ns: int = 1) -> Snapshot:
    id = new_id()
    devices = (Device("virtio0", "#block1", "/a.qcow2", 1 << 30), Device("b", "b", "/b.qcow2", 1 << 20))
    machine = Machine("pc-i440fx-7.2", 1 << 27, "max", 1, ("a=virtio-blk-pci",))
    tag = format_tag(name, id, parent_id)
    return Snapshot(id, name, parent_id, tag, created_ns, 5, "full", 9, "virtio0", devices, machine, "words")


def entry(action: str, snapshot: Snapshot) -> Entry:
    return Entry(7, action, snapshot.name, snapshot.id, NIL, "", "me", 1.5, 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(path, create=True)
    yield catalog
    catalog.close()


def test_what_was_created_is_there_and_current_also_after_opening_again(catalog: Catalog, path: Path) -> None:
    a = make("a")
    catalog.created(a, entry("create", a))
    catalog.close()
    again = Catalog.open(path)
    assert again.snapshots() == [a]
    assert again.current() == Current(a.id)
    assert again.history() == [entry("create", a)]
    again.close()


def test_the_children_of_a_deleted_snapshot_go_to_its_parent_and_so_does_current(catalog: Catalog) -> None:
    a = make("a")
    b = make("b", a.id)
    c = make("c", b.id)
    for snapshot in (a, b, c):
        catalog.created(snapshot, entry("create", snapshot))
    catalog.loaded(b.id, entry("load", b))
    catalog.deleted([b.id], [entry("delete", b)])
    assert [s.parent_id for s in catalog.snapshots()] == [NIL, a.id]
    assert catalog.current().id == a.id
    catalog.deleted([c.id, a.id], [entry("delete", c), entry("delete", a)])
    assert catalog.current().id == NIL
    assert catalog.snapshots() == []


def test_history_cannot_be_changed(catalog: Catalog, path: Path) -> None:
    a = make("a")
    catalog.created(a, entry("create", a))
    db = sqlite3.connect(path)
    for sql in ("UPDATE history SET name = 'x'", "DELETE FROM history"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(sql)
    db.close()


def test_there_is_one_operation_at_a_time(catalog: Catalog) -> None:
    catalog.begin(Journal("create", 1, "me", {"a": 1}))
    with pytest.raises(CatalogError):
        catalog.begin(Journal("load", 2, "me"))
    assert catalog.journal() == Journal("create", 1, "me", {"a": 1})
    catalog.ended()
    assert catalog.journal() is None


def test_a_failed_transaction_leaves_all_as_it_was(catalog: Catalog) -> None:
    a = make("a")
    catalog.created(a, entry("create", a))
    catalog.begin(Journal("create", 1, "me"))
    twin = make("a")
    with pytest.raises(CatalogError):
        catalog.created(twin, entry("create", twin))
    assert catalog.snapshots() == [a]
    assert catalog.current().id == a.id
    assert len(catalog.history()) == 1
    assert catalog.journal() is not None


def test_a_load_ends_what_a_broken_one_left(catalog: Catalog) -> None:
    a = make("a")
    catalog.created(a, entry("create", a))
    catalog.broke("b is at a", entry("load", a))
    assert catalog.broken() == "b is at a"
    catalog.loaded(a.id, entry("load", a))
    assert catalog.broken() == ""


def test_an_unknown_name_is_answered_with_those_that_look_alike(catalog: Catalog) -> None:
    a = make("before-upgrade")
    catalog.created(a, entry("create", a))
    with pytest.raises(NoSuchSnapshot, match="before-upgrade"):
        catalog.find(name="before-upgrad")
    assert catalog.find(id=a.id[:9]) == a


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be looked at" * 20])
def test_a_file_that_is_no_catalog_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CatalogError):
        Catalog.open(path)
    assert path.read_bytes() == content


def test_a_catalog_of_a_newer_version_is_refused_and_left_alone(catalog: Catalog, path: Path) -> None:
    catalog.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CatalogError, match="99"):
        Catalog.open(path)


def test_a_thousand_snapshots_are_found_by_name_without_reading_all(catalog: Catalog, path: Path) -> None:
    a = make("a")
    catalog.created(a, entry("create", a))
    db = sqlite3.connect(path)
    plans = [
        db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM snapshots WHERE {column} = 'x'").fetchall()
        for column in ("name", "id", "parent_id")
    ]
    db.close()
    assert all("SEARCH" in plan[0][3] for plan in plans)
