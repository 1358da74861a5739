"""The VM's block devices, from what QEMU says of its backends and nodes.  Not for: what is wrong with them.

A device is what a snapshot must hold: every writable root (see :mod:`.blockgraph`), attached to the guest or not, each
image once.  QEMU is told the qcow2 node itself, below throttle, copy-on-read and other filters: a load through a
throttle filter aborts QEMU 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..qcow2.table import ImageSnapshot
from .blockgraph import COPY_BEFORE_WRITE, LOCAL_DRIVERS, QCOW2, Graph, Node
from .host import Host

FILTERS = frozenset(
    {"blkdebug", "blklogwrites", "compress", COPY_BEFORE_WRITE, "copy-on-read", "preallocate", "throttle"}
)

# QEMU's create_tmp_file() in block.c; -snapshot deletes the name at once.
_TEMPORARY = re.compile(r"/vl\.[A-Za-z0-9]{6}$")
_GENERATED = "#"


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap and the node that it is on."""

    node: str
    name: str


@dataclass(frozen=True, slots=True)
class BackingImage:
    """An image below a device's own: QEMU neither lists nor loads the snapshots in it.

    :param tags: those snapshots.
    """

    file: str
    node: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A block device of the VM, as it is now.

    :param device: its name, the same over restarts: the drive's id, else the qdev id, else a user's node-name, else the
        qdev path.
    :param node: the qcow2 node, or the root where it has none; ``#block…`` differs at every start.
    :param root: the node that the guest, or nothing, uses.
    :param file: the image's absolute path, or QEMU's file name where it is no local file.
    :param driver: the image's format, for example ``qcow2``, ``raw``.
    :param size: the virtual size in bytes.
    :param allocated_bytes: what the image takes up on the host.
    :param snapshots: as QEMU lists them; ``l1_offset`` and ``l1_entries`` are 0, it doesn't tell them.
    :param filters: the drivers of the nodes above the image, outermost first.
    :param temporary: it is the throw-away overlay of ``-snapshot`` or ``snapshot=on``.
    :param external_data_file: the data file of a qcow2 image that has one; else empty.
    :param backing: the images below, nearest first.
    :param discard_lost: deleting a snapshot frees no space on the host, because the node of its file ignores discards.
    :param host_free_bytes: how much the image can grow; ``None`` where it is not known.
    """

    device: str
    node: str
    root: str
    file: str
    driver: str
    writable: bool
    size: int
    allocated_bytes: int = 0
    cluster_size: int = 0
    snapshots: tuple[ImageSnapshot, ...] = ()
    qdev: str = ""
    filters: tuple[str, ...] = ()
    is_pflash: bool = False
    temporary: bool = False
    corrupt: bool = False
    bitmaps: tuple[Bitmap, ...] = ()
    external_data_file: str = ""
    backing: tuple[BackingImage, ...] = ()
    discard_lost: bool = False
    host_free_bytes: int | None = None

    @property
    def throttled(self) -> bool:
        """A throttle filter stands above the image."""
        return "throttle" in self.filters

    def holding(self, tag: str) -> list[ImageSnapshot]:
        """Return the snapshots of this tag; more than one only where something else than QEMU made them."""
        return [snapshot for snapshot in self.snapshots if snapshot.tag == tag]


def block_devices(backends: Sequence[Mapping[str, Any]], graph: Graph, host: Host) -> tuple[BlockDevice, ...]:
    """Return what a snapshot must hold now: those in QEMU's order of devices first, unattached ones after them.

    :param backends: what ``query-block`` returned.
    """
    return _named(backends, graph, host, list(graph.roots()))


def read_only_devices(backends: Sequence[Mapping[str, Any]], graph: Graph, host: Host) -> tuple[BlockDevice, ...]:
    """Return the devices with a medium that nobody can write to; no snapshot holds them."""
    nodes = [b["inserted"]["node-name"] for b in backends if "inserted" in b]
    return _named(backends, graph, host, [name for name in nodes if name in graph.nodes and graph.nodes[name]["ro"]])


def closed_devices(backends: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the devices whose image QEMU has closed because it found it corrupt.

    A device without removable media has an image for as long as QEMU can use it.
    """
    return tuple(
        backend["device"] or qdev_id(backend.get("qdev", "")) or backend.get("qdev", "")
        for backend in backends
        if "inserted" not in backend and not backend["removable"]
    )


def qdev_id(qdev: str) -> str:
    """Return the id in a qdev name: QEMU gives the id, or a QOM path that holds it, or a path without any."""
    if not qdev.startswith("/"):
        return qdev
    parts = qdev.split("/")
    return parts[3] if parts[1:3] == ["machine", "peripheral"] and len(parts) > 3 else ""


def parse_snapshots(image: Mapping[str, Any]) -> tuple[ImageSnapshot, ...]:
    """Return the snapshots in QEMU's ImageInfo."""
    return tuple(
        ImageSnapshot(
            qemu_id=item["id"],
            tag=item["name"],
            date_ns=item["date-sec"] * 10**9 + item["date-nsec"],
            vm_clock_ns=item["vm-clock-sec"] * 10**9 + item["vm-clock-nsec"],
            vm_state_size=item["vm-state-size"],
            disk_size=None,
            icount=item.get("icount"),
            l1_offset=0,
            l1_entries=0,
        )
        for item in image.get("snapshots", ())
    )


def _named(
    backends: Sequence[Mapping[str, Any]], graph: Graph, host: Host, roots: Sequence[str]
) -> tuple[BlockDevice, ...]:
    users: dict[str, Mapping[str, Any]] = {}
    for backend in backends:
        if "inserted" in backend:
            users.setdefault(backend["inserted"]["node-name"], backend)
    order = {name: place for place, name in enumerate(users)}
    # A block job puts a node of its own above the one that query-block shows.
    shown = {root: next((name for name in graph.descend(root) if name in users), "") for root in roots}
    found: dict[str, BlockDevice] = {}
    taken: set[str] = set()
    for root in sorted(roots, key=lambda name: order.get(shown[name], len(order))):
        path = graph.descend(root)
        image = path[-1] if graph.nodes[path[-1]]["drv"] == QCOW2 else _format_node(path, graph)
        if image in found:
            continue
        backend = users.get(shown[root], {})
        device = _name(backend, root, image, taken)
        taken.add(device)
        found[image] = _device(device, backend.get("qdev", ""), path[: path.index(image) + 1], graph, host)
    return tuple(found.values())


def _format_node(path: Sequence[str], graph: Graph) -> str:
    """Return the first node of a path that is no filter; where there are filters only, the last."""
    return next((name for name in path if graph.nodes[name]["drv"] not in FILTERS), path[-1])


def _name(backend: Mapping[str, Any], root: str, image: str, taken: set[str]) -> str:
    qdev = str(backend.get("qdev", ""))
    candidates = [str(backend.get("device", "")), qdev_id(qdev)]
    candidates += [node for node in (image, root) if not node.startswith(_GENERATED)]
    candidates += [qdev, image]
    return next((name for name in candidates if name and name not in taken), image)


def _device(device: str, qdev: str, path: Sequence[str], graph: Graph, host: Host) -> BlockDevice:
    *above, node = path
    info = graph.nodes[node]
    image = info["image"]
    data = image.get("format-specific", {}).get("data", {})
    file_node = graph.protocol(node)
    file = _file(graph.nodes[file_node], host)
    backing = tuple(graph.backing_chain(node))
    return BlockDevice(
        device=device,
        node=node,
        root=above[0] if above else node,
        file=file,
        driver=info["drv"],
        writable=not info["ro"],
        size=image["virtual-size"],
        allocated_bytes=image.get("actual-size", 0),
        cluster_size=image.get("cluster-size", 0),
        snapshots=parse_snapshots(image),
        qdev=qdev,
        filters=tuple(graph.nodes[name]["drv"] for name in above),
        is_pflash=_is_pflash(device, qdev),
        temporary=bool(backing and info["cache"]["no-flush"] and _TEMPORARY.search(file)),
        corrupt=bool(data.get("corrupt", False)),
        bitmaps=_bitmaps((*above, node), graph),
        external_data_file=_external(data, node, graph, host),
        backing=tuple(_backing(name, graph, host) for name in backing),
        discard_lost=graph.below(node, "file") in host.without_discard,
        host_free_bytes=host.free_bytes(file),
    )


def _file(node: Node, host: Host) -> str:
    return host.resolve(node["file"]) if node["drv"] in LOCAL_DRIVERS else str(node["file"])


def _backing(name: str, graph: Graph, host: Host) -> BackingImage:
    tags = tuple(snapshot.tag for snapshot in parse_snapshots(graph.nodes[name]["image"]))
    return BackingImage(_file(graph.nodes[graph.protocol(name)], host), name, tags)


def _bitmaps(names: Iterable[str], graph: Graph) -> tuple[Bitmap, ...]:
    # One without a name belongs to a block job, and goes with it.
    return tuple(
        Bitmap(name, bitmap["name"])
        for name in names
        for bitmap in graph.nodes[name].get("dirty-bitmaps", ())
        if bitmap.get("name")
    )


def _external(data: Mapping[str, Any], node: str, graph: Graph, host: Host) -> str:
    below = graph.below(node, "data-file")
    if below in graph.nodes:
        return _file(graph.nodes[graph.protocol(below)], host)
    return str(data.get("data-file", ""))


def _is_pflash(device: str, qdev: str) -> bool:
    """Say whether it is flash memory of the board (UEFI variables): QEMU's boards call it ….flash0 or pflash0."""
    on_board = qdev.startswith("/machine/") and not qdev.startswith(("/machine/peripheral", "/machine/unattached"))
    return re.fullmatch(r"pflash\d+", device) is not None or (on_board and "flash" in qdev.rsplit("/", 1)[-1])
