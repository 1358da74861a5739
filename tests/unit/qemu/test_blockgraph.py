from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.qemu.blockgraph import Graph, parse_graph

if TYPE_CHECKING:
    from .conftest import Recorded

    Open = Callable[[str], Recorded]


def drivers(graph: Graph, path: tuple[str, ...]) -> list[str]:
    return [graph.nodes[name]["drv"] for name in path]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("throttle", ["throttle", "qcow2"]),
        ("copy-on-read", ["copy-on-read", "qcow2"]),
        ("raw-over-qcow2", ["raw", "qcow2"]),
        ("mirror", ["mirror_top", "qcow2"]),
        ("backup-kept", ["copy-before-write", "qcow2"]),
        ("raw-disk", ["qcow2"]),
    ],
)
def test_a_root_leads_through_filters_to_its_image(recorded: Open, name: str, expected: list[str]) -> None:
    graph = recorded(name).graph
    assert expected in [drivers(graph, graph.descend(root)) for root in graph.roots()]


def test_what_only_another_node_uses_is_no_root(recorded: Open) -> None:
    assert list(recorded("blockdevs").graph.roots()) == ["da", "db"]


def test_an_unattached_writable_node_is_a_root(recorded: Open) -> None:
    roots = list(recorded("unattached").graph.roots())
    assert "spare" in roots
    assert "loose" in roots


def test_a_backing_image_is_no_root(recorded: Open) -> None:
    graph = recorded("overlay").graph
    assert len(list(graph.roots())) == 1


def test_the_backing_chain_is_followed(recorded: Open) -> None:
    graph = recorded("overlay").graph
    (root,) = graph.roots()
    (below,) = graph.backing_chain(root)
    assert graph.nodes[below]["file"] == "a.qcow2"


def node(name: str, driver: str = "qcow2") -> dict[str, Any]:
    return {"node-name": name, "drv": driver, "ro": False}


def chain(count: int) -> Graph:
    names = [f"n{i}" for i in range(count)]
    return parse_graph(
        [node(name) for name in names],
        {
            "nodes": [{"id": i, "type": "block-driver", "name": name} for i, name in enumerate(names)],
            "edges": [{"parent": i, "child": i + 1, "name": "backing"} for i in range(count - 1)],
        },
    )


def test_a_chain_of_thousands_is_followed() -> None:
    assert len(list(chain(5000).backing_chain("n0"))) == 4999


@given(
    st.lists(st.sampled_from(["qcow2", "raw", "throttle", "copy-before-write", "file"]), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["file", "backing", "data-file"]))),
)
def test_every_walk_ends_even_in_a_ring(kinds: list[str], edges: list[tuple[int, int, str]]) -> None:
    count = len(kinds)
    graph = parse_graph(
        [node(f"n{i}", kind) for i, kind in enumerate(kinds)],
        {
            "nodes": [{"id": i, "type": "block-driver", "name": f"n{i}"} for i in range(count)],
            "edges": [{"parent": a % count, "child": b % count, "name": name} for a, b, name in edges],
        },
    )
    for name in graph.nodes:
        assert graph.descend(name)[0] == name
        assert graph.protocol(name) in graph.nodes
        assert set(graph.backing_chain(name)) <= set(graph.nodes)
