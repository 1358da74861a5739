"""The bytes of a view: a small image through which QEMU sees one snapshot of another image.  Not for: reading it.

QEMU opens an image at its active state, and has no option for a snapshot.  But an image's header is all that tells the
active state from a snapshot: it says where the L1 table lies, and how large the disk is.  A view has another header,
and all else of the image as it is::

    overlay ──backing──> qcow2 ──file──> qcow2 in the view's file ──backing──> the source's file, as raw bytes
                         reads a header  holds the header, maps                its snapshot's L1 and L2 tables
                         of the view's   nothing else                          and clusters, where they are

So nothing is copied, however large the disk is.  While the snapshot is there, QEMU neither moves nor frees nor
overwrites its tables and clusters, since their refcounts count the snapshot; of the tables only the COPIED flags
change, which no reader needs.  The more obvious way, the source's file as the external data file of an image with
copied tables, is refused by QEMU: there each cluster must lie where the guest sees it.
"""

from __future__ import annotations

import json
from dataclasses import replace

from .errors import DamagedImage, UnsupportedImage
from .header import CRYPT_NONE, Header, check_l1_table
from .overlay import CLUSTER_BITS, header_bytes, overlay
from .table import ImageSnapshot

FORMAT = "qcow2"
"""The format of what an overlay on a view names as its backing image."""


def view(
    header: Header, snapshot: ImageSnapshot, source: str, file_size: int, *, driver: str = "file", directory: str = "/"
) -> bytes:
    """Return the bytes of a view's file.

    :param header: the source's.
    :param source: the absolute path of the source.
    :param file_size: the bytes of the source's file; it may grow later.
    :param driver: QEMU's for the source's file: ``file``, or ``host_device`` for a block device.
    :param directory: what the source's backing image is relative to.
    :raises UnsupportedImage: where QEMU could not see the snapshot so.
    :raises DamagedImage: where the snapshot's L1 table is impossible.
    """
    if header.crypt_method != CRYPT_NONE:
        raise UnsupportedImage("It is encrypted, and a view of it would need its key.")
    if header.external_data_file:
        raise UnsupportedImage("It has an external data file, and can hold no snapshots.")
    size = disk_size(header, snapshot)
    entries = header.l1_entries_for(size)
    check_l1_table(header.cluster_bits, "snapshot's L1 table", snapshot.l1_offset, snapshot.l1_entries)
    if snapshot.l1_entries < entries:
        raise DamagedImage(f"A snapshot's L1 table of {snapshot.l1_entries} entries is too small for {size} bytes.")
    end = -(-file_size // header.cluster_size)
    # QEMU opens no image without a refcount table.  This one is zeros: who only reads asks for no refcount.
    refcount_table = end * header.cluster_size
    seen = replace(
        header, size=size, l1_offset=snapshot.l1_offset, l1_entries=entries, nb_snapshots=0, snapshots_offset=0
    )
    backing = None if header.backing_file is None else full_backing_name(header.backing_file, directory)
    cluster_bits = min(header.cluster_bits, CLUSTER_BITS)
    per_cluster = 1 << header.cluster_bits - cluster_bits
    own: dict[int, bytes | None] = dict.fromkeys(range(end * per_cluster, (end + 1) * per_cluster))
    try:
        own[0] = header_bytes(seen, refcount_table, 1, backing, header.backing_format)
        below = backing_name({"driver": "raw", "file": {"driver": driver, "filename": source, "locking": "off"}})
        return overlay((end + 1) * header.cluster_size, below, "raw", cluster_bits=cluster_bits, own=own)
    except ValueError as error:
        raise UnsupportedImage(f"A view of it is impossible: {error}.") from error


def disk_size(header: Header, snapshot: ImageSnapshot) -> int:
    """Return the disk's size in bytes in a snapshot."""
    return header.disk_size if snapshot.disk_size is None else snapshot.disk_size


def view_backing(path: str) -> str:
    """Return the name under which an overlay has a view as its backing image, of the format FORMAT.

    QEMU takes no locks on the view's file: it may be made anew, or be removed, whoever reads it.

    :param path: the absolute path of the view's file.
    :raises ValueError: where no name can hold it.
    """
    file = {"driver": "file", "filename": path, "locking": "off"}
    return backing_name({"driver": FORMAT, "file": {"driver": FORMAT, "file": file}})


def backing_name(options: dict[str, object]) -> str:
    """Return the name that makes QEMU open a backing image with these options.

    :raises ValueError: where a path in them is no UTF-8; QEMU's JSON holds nothing else.
    """
    name = "json:" + json.dumps(options, separators=(",", ":"), ensure_ascii=False)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its path is no UTF-8") from error
    return name


def full_backing_name(name: str, directory: str) -> str:
    """Return a backing image's name so that it can be used from anywhere, as QEMU's ``path_combine`` makes it."""
    before_slash = name.partition("/")[0]
    if name.startswith("/") or ":" in before_slash:
        return name
    return f"{directory.rstrip('/')}/{name}"
