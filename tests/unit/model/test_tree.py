from dataclasses import dataclass

from snaptree.model.snapshot import SnapshotJSON, date_integer, iso_time
from snaptree.model.tree import nest, subtree


@dataclass(frozen=True)
class Item:
    id: str
    parent_id: str


def flat(id: str, parent: str) -> SnapshotJSON:
    return {
        "name": id,
        "id": id,
        "parent_name": parent,
        "parent_id": parent,
        "date": 0,
        "created": "",
        "vm_clock": 0,
        "description": "",
        "current": False,
        "consistent": True,
        "memory": "full",
        "vm_state_size": 0,
        "automatic": False,
        "devices": [],
    }


def test_a_subtree_comes_with_every_child_before_its_parent() -> None:
    items = [Item("a", "0"), Item("b", "a"), Item("c", "b"), Item("d", "a"), Item("e", "0")]
    order = [item.id for item in subtree(items, "a")]
    assert sorted(order) == ["a", "b", "c", "d"]
    for item in items:
        if item.parent_id in order:
            assert order.index(item.id) < order.index(item.parent_id)


def test_a_snapshot_whose_parent_is_lost_is_a_root() -> None:
    roots = nest([flat("a", "0"), flat("b", "a"), flat("c", "gone")])
    assert [root["name"] for root in roots] == ["a", "c"]
    assert [child["name"] for child in roots[0]["children"]] == ["b"]


def test_a_line_of_ten_thousand_snapshots_is_nested_without_recursion() -> None:
    roots = nest([flat(str(n), str(n - 1)) for n in range(10_000)])
    depth, level = 0, roots
    while level:
        depth, level = depth + 1, level[0]["children"]
    assert depth == 10_000


def test_dates_are_in_utc_as_the_images_hold_them() -> None:
    ns = 1_271_350_136_007_000_000
    assert date_integer(ns) == 20100415164856
    assert iso_time(ns) == "2010-04-15T16:48:56.007Z"
