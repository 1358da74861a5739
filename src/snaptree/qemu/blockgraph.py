"""QEMU's block nodes and how they stand on each other.  Not for: what a snapshot must hold of them.

A *root* is a writable node that QEMU's own rule counts for a snapshot (``bdrv_all_snapshots_includes_bs`` in QEMU's
block/snapshot.c): a guest's device, an export or another user sits on it, or nothing at all stands on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Node: TypeAlias = Mapping[str, Any]
"""An element of ``query-named-block-nodes``."""

QCOW2 = "qcow2"
COPY_BEFORE_WRITE = "copy-before-write"
LOCAL_DRIVERS = frozenset({"file", "host_device"})


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of one QEMU, by node-name.

    :param nodes: in QEMU's order, newest first.
    :param children: for each node its edges: name of the edge, node below.
    :param used: the nodes that a BlockBackend (a device, a drive, an export) uses directly.
    :param covered: the nodes that anything stands on.
    """

    nodes: Mapping[str, Node]
    children: Mapping[str, tuple[tuple[str, str], ...]]
    used: frozenset[str]
    covered: frozenset[str]

    def roots(self) -> Iterator[str]:
        """Yield every root, oldest first, so that the order is that of the command line."""
        for name in reversed(list(self.nodes)):
            if not self.nodes[name]["ro"] and (name in self.used or name not in self.covered):
                yield name

    def descend(self, name: str) -> tuple[str, ...]:
        """Return the path from a node down to the one that QEMU snapshots for it, or as far as QEMU would look.

        A driver without snapshots hands them to its only child, its backing image not counted
        (``bdrv_snapshot_fallback`` in QEMU's block/snapshot.c); that is how filters and a raw layer work.  Through the
        filter of a backup QEMU would not look; the image is below it all the same.
        """
        path = [name]
        while self.nodes[path[-1]]["drv"] != QCOW2:
            edges = self.children.get(path[-1], ())
            data = [child for edge, child in edges if edge != "backing"] or [child for _, child in edges]
            if self.nodes[path[-1]]["drv"] == COPY_BEFORE_WRITE:
                data = [child for edge, child in edges if edge == "file"]
            if len(data) != 1 or data[0] not in self.nodes or data[0] in path:
                break
            path.append(data[0])
        return tuple(path)

    def below(self, name: str, edge: str) -> str:
        """Return the node at the other end of an edge, or an empty string."""
        return next((child for called, child in self.children.get(name, ()) if called == edge), "")

    def protocol(self, name: str) -> str:
        """Return the lowest node that holds a node's own data."""
        seen = {name}
        while True:
            child = self.below(name, "file")
            if not child or child in seen or child not in self.nodes:
                return name
            seen.add(child)
            name = child

    def backing_chain(self, name: str) -> Iterator[str]:
        """Yield the images below a node, nearest first, filters between them left out."""
        seen = {name}
        while True:
            child = self.below(name, "backing")
            if not child or child in seen or child not in self.nodes:
                return
            lowest = self.descend(child)[-1]
            name = lowest if self.nodes[lowest]["drv"] == QCOW2 else child
            seen.update((child, name))
            yield name


def parse_graph(nodes: Sequence[Node], debug_graph: Mapping[str, Any]) -> Graph:
    """Return the graph.

    :param nodes: what ``query-named-block-nodes`` with ``flat`` returned.
    :param debug_graph: what ``x-debug-query-block-graph`` returned; nothing else in QEMU up to 10.0 tells what stands
        on a node, and a node's file name says nothing for sure.
    """
    names: dict[int, str] = {}
    backends = set()
    for item in debug_graph["nodes"]:
        if item["type"] == "block-driver":
            names[item["id"]] = item["name"]
        elif item["type"] == "block-backend":
            backends.add(item["id"])
    children: dict[str, list[tuple[str, str]]] = {}
    used, covered = set(), set()
    for edge in debug_graph["edges"]:
        child = names.get(edge["child"], "")
        covered.add(child)
        if edge["parent"] in backends:
            used.add(child)
        elif edge["parent"] in names:
            children.setdefault(names[edge["parent"]], []).append((edge["name"], child))
    return Graph(
        {node["node-name"]: node for node in nodes},
        {name: tuple(edges) for name, edges in children.items()},
        frozenset(used),
        frozenset(covered),
    )
