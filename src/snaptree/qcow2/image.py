"""One qcow2 image, opened for reading.  Not for: writing, locking, or following backing files.

An image may be read while a QEMU has it open: nothing is locked, and QEMU's own locks hinder no reader.  What
changes meanwhile is read again.  QEMU writes a new snapshot table elsewhere, then switches the header to it,
then frees the old one, so a table that is the same twice, under the same header, is whole.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from snaptree.model.errors import ImageError
from snaptree.model.names import printable

from .errors import CutShort, DamagedImage, ImageChanging, UnsupportedImage
from .header import CRYPT_NONE, Header, check_l1_table, parse_header
from .mapping import Extent, check_host_offset, parse_l1, parse_l2, same_state
from .table import MAX_TABLE_BYTES, ImageSnapshot, SnapshotTable, parse_snapshot_table
from .vmstate import VMStateHead, read_head

_ATTEMPTS = 10
_HEADER_GUESS = 4096
_ENTRY_GUESS = 288  # an entry with a tag of ours
_TABLE_GUESS = 4096


def list_snapshots(path: str | os.PathLike[str]) -> tuple[ImageSnapshot, ...]:
    """Return the entries of an image's snapshot table.

    :raises ImageError: where it cannot be opened or read, or is no whole qcow2 image.
    """
    with Image.open(path) as image:
        return image.snapshots()


class Image:
    """An open image; a context manager that closes it.  Made by Image.open.

    Every method raises ImageError, with the path in its message, where the image cannot be read.
    """

    __slots__ = ("_fd", "_header", "_opened_now", "path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._header: tuple[bytes, Header] | None = None  # as one: another thread may take it over
        self._opened_now = False  # so the header is new enough; until a snapshot table was read
        self.path = path

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, known: Image | None = None) -> Self:
        """Open a regular file or a block device, and read its header.

        :param known: the image as it was read before: where the header is the same to the byte it is not parsed again.
        :raises NotQcow2: where it is of another format.
        :raises ImageError: where it is no such file, or cannot be opened or read.
        """
        name = os.fspath(path)
        try:
            # O_NONBLOCK: a FIFO without a writer would block the open for ever.
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise ImageError(f"The image {printable(name, 400)} cannot be opened: {error.strerror}.") from error
        except ValueError as error:
            raise ImageError(f"{printable(name, 400)} cannot be the path of an image.") from error
        image = cls(fd, name)
        if known is not None:
            image._header = known._header
        try:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise ImageError(f"{printable(name, 400)} is no image: it is no regular file and no block device.")
            image.read_header()
            image._opened_now = True
        except BaseException:
            image.close()
            raise
        return image

    def close(self) -> None:
        """Close it; again is nothing.  OFD locks that other descriptors hold stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def file_kind(self) -> tuple[bool, int]:
        """Return whether it is a block device, and its file's length in bytes now."""
        with self._named():
            length = os.lseek(self._fd, 0, os.SEEK_END)  # st_size of a block device is 0
            return stat.S_ISBLK(os.fstat(self._fd).st_mode), length

    @property
    def header(self) -> Header:
        """The header as it was read last: by open, read_header, or the method that was called last."""
        return self._header[1] if self._header is not None else self.read_header()

    def read_header(self) -> Header:
        """Read the header again, and return it."""
        with self._named():
            length = _HEADER_GUESS
            while True:
                data = self._read(0, length)
                if self._header is not None and data == self._header[0]:
                    return self._header[1]
                try:
                    header = parse_header(data)
                except CutShort as error:
                    if len(data) < length or error.needed <= length:
                        raise
                    length = max(error.needed, length * 2)
                else:
                    self._header = data, header
                    return header

    def snapshots(self, known: SnapshotTable | None = None) -> tuple[ImageSnapshot, ...]:
        """Return the entries of the snapshot table, in the image's order.

        :param known: the table as it was read before: what is the same to the byte is not parsed again.
        :raises ImageChanging: where the table changed at every attempt.
        """
        return self.snapshot_table(known).snapshots

    def snapshot_table(self, known: SnapshotTable | None = None) -> SnapshotTable:
        """Return the snapshot table, parsed and as bytes; see :meth:`snapshots`."""
        problem: ImageError = ImageChanging("Its snapshot table changes all the time.", "Try again.")
        with self._named():
            for _ in range(_ATTEMPTS):
                header = self.header if self._opened_now else self.read_header()
                self._opened_now = False
                try:
                    read = self._snapshot_table(header, known)
                    if read is known:
                        return read  # no torn reading looks like what was a whole table once
                except DamagedImage as error:
                    # A torn reading looks like damage; damage is there the second time too.
                    if isinstance(problem, DamagedImage):
                        raise
                    problem = error
                    continue
                unmoved = self._tables(self.read_header()) == self._tables(header)
                if unmoved and self._read(header.snapshots_offset, len(read.data)) == read.data:
                    return read
            raise problem

    def active_l1(self) -> tuple[int, ...]:
        """Return the L1 table of the active state: its L2 tables' host offsets, 0 where there is none.

        While the guest runs and writes it is the table of no single moment.

        :raises ImageChanging: where the table moved at every attempt.
        """
        with self._named():
            for _ in range(_ATTEMPTS):
                header = self.header  # it may be old: what matters is that it is the same afterwards
                data = self._read_whole(header.l1_offset, header.l1_entries * 8, "active L1 table")
                if self._tables(self.read_header()) == self._tables(header):
                    return parse_l1(data)
            raise ImageChanging("Its L1 table moves all the time.", "Try again.")

    def snapshot_l1(self, snapshot: ImageSnapshot) -> tuple[int, ...]:
        """Return a snapshot's L1 table, as active_l1 does.  The snapshot must not be deleted meanwhile."""
        with self._named(snapshot):
            self._check_l1(snapshot)
            return parse_l1(self._read_whole(snapshot.l1_offset, snapshot.l1_entries * 8, "snapshot's L1 table"))

    def is_at(self, snapshot: ImageSnapshot) -> bool:
        """Say whether the disk is exactly as in ``snapshot``: nothing was written since it was taken or loaded.

        VM state is left out.  Only for an image that no guest writes to now, and a snapshot that is there.
        Equal content does not suffice: after a write of the same bytes the answer is no.
        """
        active = self.active_l1()
        header = self.header
        if snapshot.disk_size not in (None, header.disk_size):
            return False
        disk_entries = header.l1_entries_for(header.size)
        return same_state(active[:disk_entries], self.snapshot_l1(snapshot)[:disk_entries])

    def read_vm_state(self, snapshot: ImageSnapshot, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of a snapshot's VM state from ``offset`` on; fewer where it ends before.

        The snapshot must not be deleted meanwhile.  What the image holds no cluster for reads as zeros.

        :raises UnsupportedImage: where the image is encrypted, or a cluster is compressed.
        """
        if offset < 0 or length < 0:
            raise ValueError(f"not a part of a VM state: {offset}, {length}")
        with self._named(snapshot):
            header = self.header
            self._check_l1(snapshot)
            if header.crypt_method != CRYPT_NONE:
                raise UnsupportedImage("It is encrypted, so its VM state cannot be read here.")
            if header.external_data_file:
                raise UnsupportedImage("It has an external data file, and can hold no VM state.")
            disk_size = header.size if snapshot.disk_size is None else snapshot.disk_size
            position = header.l1_entries_for(disk_size) * header.l1_entry_covers + offset
            end = position + max(0, min(length, snapshot.vm_state_size - offset))
            parts: list[bytes] = []
            while position < end:
                # One L2 table at a time.
                size = min(end - position, header.l1_entry_covers - position % header.l1_entry_covers)
                parts.extend(self._read_extent(extent) for extent in self._extents(header, snapshot, position, size))
                position += size
            return b"".join(parts)

    def vm_state_head(self, snapshot: ImageSnapshot) -> VMStateHead | None:
        """Return what the head of a snapshot's VM state says; None where this image holds no VM state of it.

        :raises UnsupportedImage: as read_vm_state, and where the stream is of an unknown kind.
        """
        if not snapshot.vm_state_size:
            return None
        with self._named(snapshot):
            return read_head(lambda offset, length: self.read_vm_state(snapshot, offset, length))

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the file from a host offset on; fewer where it ends before."""
        with self._named():
            return self._read(offset, length)

    def _extents(self, header: Header, snapshot: ImageSnapshot, position: int, length: int) -> list[Extent]:
        """Return where a part of a snapshot's virtual space, within one L2 table, lies."""
        l1_index, into = divmod(position, header.l1_entry_covers)
        if l1_index >= snapshot.l1_entries:
            raise DamagedImage(f"A snapshot's VM state goes on behind its L1 table of {snapshot.l1_entries} entries.")
        (l2_offset,) = parse_l1(self._read_whole(snapshot.l1_offset + l1_index * 8, 8, "snapshot's L1 table"))
        if not l2_offset:
            return [Extent(None, length)]
        check_host_offset(header, "L1", l2_offset)
        first, skip = divmod(into, header.cluster_size)
        count = -(-(skip + length) // header.cluster_size)
        start = l2_offset + first * header.l2_entry_bytes
        entries = self._read_whole(start, count * header.l2_entry_bytes, "L2 table")
        return parse_l2(header, entries, skip, length)

    def _read_extent(self, extent: Extent) -> bytes:
        if extent.host_offset is None:
            return bytes(extent.length)
        return self._read_whole(extent.host_offset, extent.length, "VM state")

    def _snapshot_table(self, header: Header, known: SnapshotTable | None) -> SnapshotTable:
        """Return the snapshot table."""
        if known is not None and len(known.snapshots) == header.nb_snapshots:
            data = self._read(header.snapshots_offset, len(known.data))
            if data == known.data:
                return known
        length = min(max(_TABLE_GUESS, header.nb_snapshots * _ENTRY_GUESS), MAX_TABLE_BYTES)
        while True:
            data = self._read(header.snapshots_offset, length if header.nb_snapshots else 0)
            try:
                return parse_snapshot_table(data, header.nb_snapshots, known)
            except CutShort as error:
                if len(data) < length or length >= MAX_TABLE_BYTES:
                    raise
                length = min(max(error.needed, length * 2), MAX_TABLE_BYTES)

    def _check_l1(self, snapshot: ImageSnapshot) -> None:
        check_l1_table(self.header.cluster_bits, "snapshot's L1 table", snapshot.l1_offset, snapshot.l1_entries)

    @staticmethod
    def _tables(header: Header) -> tuple[int, int, int, int]:
        """Return what changes where QEMU switches to another table."""
        return header.l1_offset, header.l1_entries, header.snapshots_offset, header.nb_snapshots

    def _read(self, offset: int, length: int) -> bytes:
        """Read as many of ``length`` bytes as the file has."""
        return os.pread(self._fd, length, offset) if length else b""

    def _read_whole(self, offset: int, length: int, what: str) -> bytes:
        """Read exactly ``length`` bytes."""
        data = self._read(offset, length)
        if len(data) < length:
            raise DamagedImage(f"The image ends inside the {what} at byte {offset}.")
        return data

    def _named(self, snapshot: ImageSnapshot | None = None) -> _Named:
        """Put the image's path, and the snapshot's tag, into what is raised inside, once, and make it an ImageError."""
        return _Named(self.path, snapshot)


class _Named:
    """See :meth:`Image._named`; a class of its own, as a generator takes 2 µs more, many times in a pause."""

    __slots__ = ("_path", "_snapshot")

    def __init__(self, path: str, snapshot: ImageSnapshot | None) -> None:
        self._path = path
        self._snapshot = snapshot

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ImageError):
            if not error.message.startswith(printable(self._path, 400)):
                error.message = f"{self._place()}: {error.message}"
                error.args = (error.message,)
        elif isinstance(error, OSError):
            raise ImageError(f"{self._place()}: The image cannot be read: {error.strerror}.") from error

    def _place(self) -> str:
        path = printable(self._path, 400)
        return path if self._snapshot is None else f"{path}, snapshot {printable(self._snapshot.tag, 255)}"
