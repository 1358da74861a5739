"""A qcow2 image's header, from bytes.  Not for: the tables that it points to.

It is checked as QEMU checks it when it opens an image (``qcow2_do_open``); what QEMU would refuse is refused here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .errors import CutShort, DamagedImage, NotQcow2, UnsupportedImage

# QEMU's block/qcow2.h
MAGIC = b"QFI\xfb"
MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MAX_SNAPSHOTS = 65536  # QCOW_MAX_SNAPSHOTS
MAX_L1_ENTRIES = 32 * 1024 * 1024 // 8  # QCOW_MAX_L1_SIZE, in entries
CRYPT_NONE = 0

_MAX_BACKING_NAME = 1023
_MAX_REFCOUNT_ORDER = 6
_MIN_SUBCLUSTER_BITS = 9
_SUBCLUSTER_SHIFT = 5  # 32 subclusters make a cluster
_MIN_ENTRY = 40  # bytes of the shortest snapshot table entry
_INT64_MAX = 2**63 - 1
_SECTOR = 512

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_COMPRESSION_TYPES = {0: "zlib", 1: "zstd"}

_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_BITMAPS = 0x23852875
_AUTOCLEAR_BITMAPS = 1  # else a program that does not know bitmaps has written since, and QEMU ignores them

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_V3_LENGTH = _HEADER.size + _HEADER_V3.size


@dataclass(frozen=True, slots=True)
class Header:
    """What a qcow2 header says.

    :param version: 2 or 3.
    :param size: the virtual disk's size in bytes.
    :param l1_offset: where the active L1 table lies, in bytes; ``l1_entries`` is its length in entries of 8 bytes.
    :param nb_snapshots: the number of entries of the snapshot table, which lies at ``snapshots_offset``.
    :param crypt_method: 0 none, 1 AES, 2 LUKS.
    :param compression_type: of compressed clusters, ``zlib`` or ``zstd``.
    :param dirty: refcounts may be wrong; with lazy refcounts that is so while a QEMU writes.
    :param external_data_file: guest data is in another file; such an image cannot hold snapshots.
    :param backing_file: as written in the image (not resolved); ``None`` where there is none.
    :param data_file: the external data file's name as written in the image.
    :param bitmaps: how many dirty bitmaps the image keeps; QEMU loads no snapshot while there are any.
    """

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    l1_entries: int
    snapshots_offset: int
    nb_snapshots: int
    crypt_method: int = CRYPT_NONE
    compression_type: str = "zlib"
    dirty: bool = False
    corrupt: bool = False
    external_data_file: bool = False
    extended_l2: bool = False
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    bitmaps: int = 0

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entry_bytes(self) -> int:
        """Bytes of an entry of an L2 table."""
        return 16 if self.extended_l2 else 8

    @property
    def l1_entry_covers(self) -> int:
        """Bytes of virtual space that an L1 entry stands for."""
        return self.cluster_size // self.l2_entry_bytes * self.cluster_size

    @property
    def disk_size(self) -> int:
        """The size in bytes that QEMU sees, and records in snapshots: whole sectors of 512 bytes."""
        return self.size // _SECTOR * _SECTOR

    def l1_entries_for(self, size: int) -> int:
        """Return how many L1 entries a virtual disk of ``size`` bytes takes; the VM state begins behind them."""
        return -(-size // self.l1_entry_covers)


def check_table(cluster_bits: int, what: str, offset: int, entries: int, *, maximum: int, entry_bytes: int) -> None:
    """Check a table's place and length as QEMU does (``qcow2_validate_table``).

    :raises DamagedImage: where it has more than ``maximum`` entries, or is not at a cluster's start.
    """
    if entries > maximum:
        raise DamagedImage(f"The {what} has {entries} entries, and at most {maximum} are possible.")
    if offset % (1 << cluster_bits) or offset > _INT64_MAX - entries * entry_bytes:
        raise DamagedImage(f"The {what} cannot be at byte {offset}.")


def check_l1_table(cluster_bits: int, what: str, offset: int, entries: int) -> None:
    """Check an L1 table's place and length as QEMU does.

    :raises DamagedImage: as check_table.
    """
    check_table(cluster_bits, what, offset, entries, maximum=MAX_L1_ENTRIES, entry_bytes=8)


def parse_header(data: bytes) -> Header:
    """Return what the header in ``data``, an image's first bytes, says.

    The names are decoded as UTF-8 with surrogateescape.

    :raises NotQcow2: where it is no qcow2 image.
    :raises UnsupportedImage: where its version or a feature is unknown.
    :raises CutShort: where ``data`` ends before the header and its extensions do.
    :raises DamagedImage: where it contradicts itself.
    """
    if data[:4] != MAGIC[: len(data)] or len(data) < len(MAGIC):
        raise NotQcow2("It is no qcow2 image.", "`qemu-img convert -O qcow2` makes one of it.")
    if len(data) < _HEADER.size:
        raise CutShort("The image ends inside its header.", needed=_V3_LENGTH)
    (
        _,
        version,
        backing_offset,
        backing_length,
        cluster_bits,
        size,
        crypt_method,
        l1_entries,
        l1_offset,
        _,
        _,
        nb_snapshots,
        snapshots_offset,
    ) = _HEADER.unpack_from(data)
    if version not in (2, 3):
        raise UnsupportedImage(f"It is a qcow2 image of version {version}; only 2 and 3 are known.")
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        raise DamagedImage(f"Its clusters would have 2^{cluster_bits} bytes; 2^9 to 2^21 are possible.")
    incompatible, autoclear, length, compression_type = (
        _version_3(data, cluster_bits) if version == 3 else (0, 0, _HEADER.size, "zlib")
    )
    check_table(
        cluster_bits, "snapshot table", snapshots_offset, nb_snapshots, maximum=MAX_SNAPSHOTS, entry_bytes=_MIN_ENTRY
    )
    check_l1_table(cluster_bits, "active L1 table", l1_offset, l1_entries)
    names = _names(data, length, 1 << cluster_bits, backing_offset, backing_length)
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        snapshots_offset=snapshots_offset,
        nb_snapshots=nb_snapshots,
        crypt_method=crypt_method,
        compression_type=compression_type,
        dirty=bool(incompatible & _DIRTY),
        corrupt=bool(incompatible & _CORRUPT),
        external_data_file=bool(incompatible & _DATA_FILE),
        extended_l2=bool(incompatible & _EXTENDED_L2),
        backing_file=names[0],
        backing_format=names[1],
        data_file=names[2],
        bitmaps=names[3] if autoclear & _AUTOCLEAR_BITMAPS else 0,
    )
    if l1_entries < header.l1_entries_for(size):
        raise DamagedImage(f"Its active L1 table of {l1_entries} entries is too small for {size} bytes.")
    return header


def _version_3(data: bytes, cluster_bits: int) -> tuple[int, int, int, str]:
    """Return the incompatible and autoclear features, the length and the compression type of a version 3 header."""
    if len(data) < _V3_LENGTH:
        raise CutShort("The image ends inside its header.", needed=_V3_LENGTH)
    incompatible, _, autoclear, refcount_order, length = _HEADER_V3.unpack_from(data, _HEADER.size)
    if not _V3_LENGTH <= length <= 1 << cluster_bits:
        raise DamagedImage(f"Its header cannot have {length} bytes.")
    if len(data) < length:
        raise CutShort("The image ends inside its header.", needed=length)
    if unknown := incompatible & ~_KNOWN_INCOMPATIBLE:
        raise UnsupportedImage(f"It uses features that are not known here (bits {unknown:#x}).")
    if refcount_order > _MAX_REFCOUNT_ORDER:
        raise DamagedImage(f"Its refcounts would have 2^{refcount_order} bits; at most 2^{_MAX_REFCOUNT_ORDER} can be.")
    if incompatible & _EXTENDED_L2 and cluster_bits - _SUBCLUSTER_SHIFT < _MIN_SUBCLUSTER_BITS:
        raise DamagedImage(f"Clusters of 2^{cluster_bits} bytes cannot have extended L2 entries.")
    kind = data[_V3_LENGTH] if length > _V3_LENGTH else 0
    if bool(incompatible & _COMPRESSION) != bool(kind):
        raise DamagedImage(f"Its compression type {kind} contradicts its feature bits.")
    if kind not in _COMPRESSION_TYPES:
        raise UnsupportedImage(f"Its compression type {kind} is not known here.")
    return incompatible, autoclear, length, _COMPRESSION_TYPES[kind]


def _names(
    data: bytes, start: int, cluster_size: int, backing_offset: int, backing_length: int
) -> tuple[str | None, str | None, str | None, int]:
    """Return the backing file's name and format, the external data file's name, and the number of bitmaps."""
    if backing_offset > cluster_size:
        raise DamagedImage(f"Its backing file's name cannot be at byte {backing_offset}.")
    end = backing_offset or cluster_size
    backing_format = data_file = None
    bitmaps = 0
    while start < end:
        if start + _EXTENSION.size > end:
            raise DamagedImage(f"Its header extensions go beyond byte {end}.")
        if start + _EXTENSION.size > len(data):
            raise CutShort("The image ends inside its header extensions.", needed=start + _EXTENSION.size)
        kind, length = _EXTENSION.unpack_from(data, start)
        start += _EXTENSION.size
        if length > end - start:
            raise DamagedImage(f"Its header extension {kind:#010x} of {length} bytes is too long.")
        if kind == _EXTENSION_END:
            break
        if kind in (_EXTENSION_BACKING_FORMAT, _EXTENSION_DATA_FILE, _EXTENSION_BITMAPS):
            if start + length > len(data):
                raise CutShort("The image ends inside its header extensions.", needed=start + length)
            text = _text(data[start : start + length])
            if kind == _EXTENSION_DATA_FILE:
                data_file = text
            elif kind == _EXTENSION_BACKING_FORMAT:
                backing_format = text
            else:
                bitmaps = int.from_bytes(data[start : start + min(length, 4)], "big")
        start += length + 7 & ~7
    if not backing_offset:
        return None, backing_format, data_file, bitmaps
    if backing_length > min(_MAX_BACKING_NAME, cluster_size - backing_offset):
        raise DamagedImage(f"Its backing file's name would have {backing_length} bytes.")
    if backing_offset + backing_length > len(data):
        raise CutShort("The image ends inside its backing file's name.", needed=backing_offset + backing_length)
    return _text(data[backing_offset : backing_offset + backing_length]), backing_format, data_file, bitmaps


def _text(raw: bytes) -> str:
    """Decode a string as QEMU takes it: it ends at the first NUL."""
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
