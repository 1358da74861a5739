"""The lineage file: what the images' tags cannot hold, as append-only text.  Not for: being read at work.

A tag holds name and parent as they were at creation.  What changes later (names, descriptions, parents after a
delete, current) is lost with the catalog, so every change is appended here first::

    snaptree-lineage 1
    5f1b2c3d {"at": "2026-01-02T03:04:05.678Z", "do": "create", "snapshot": {…}}
    0c9d8e7f {"at": "…", "do": "rename", "id": "…", "name": "…"}

The first word of a line is the CRC-32 of the rest (without the space and the newline).  A line that a crash or a
full disk cut is cut off again before the next is appended; a damaged line is skipped by readers, who count it.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..model.errors import CatalogError
from ..model.ids import NIL
from ..model.snapshot import Snapshot, iso_time
from ..places.files import sync_directory, write_whole
from ..places.room import shortage
from .rows import from_record, to_record
from .undo import Undo, read_undo

HEADER = b"snaptree-lineage 1\n"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a lineage file says.

    :param current: the current snapshot's id; empty where it is unknown.
    :param damaged: how many lines could not be read.
    :param deleted: the snapshots that were deleted, as they were last.
    :param began_ns: when its first line was written; what is older it need not know.
    :param current_sure: no line that could not be read stands behind the one that says what is current.
    :param undo: where the VM was before its last load; ``None`` where there was none, or it is not sure.
    """

    snapshots: tuple[Snapshot, ...]
    current: str
    damaged: int
    deleted: tuple[Snapshot, ...] = ()
    current_sure: bool = True
    began_ns: int | None = None
    undo: Undo | None = None


def create_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot was created and is current."""
    return {"do": "create", "snapshot": to_record(snapshot)}


def add_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot that was in the images already came into the tree; what is current stays."""
    return {"do": "add", "snapshot": to_record(snapshot)}


def flaw_record(id: str, flaw: str) -> dict[str, Any]:
    """A snapshot was found not to be whole, and why; or, with an empty text, to be whole again."""
    return {"do": "flaw", "id": id, "flaw": flaw}


def load_record(id: str, undo: Undo | None = None) -> dict[str, Any]:
    """A snapshot was loaded and is current.

    :param undo: where the VM was before; ``None`` leaves what was known of that.
    """
    more = {} if undo is None else {"undo": undo.to_json()}
    return {"do": "load", "id": id, **more}


def undo_record(undo: Undo) -> dict[str, Any]:
    """What ``undo`` goes back to."""
    return {"do": "undo", "undo": undo.to_json()}


def delete_record(ids: Iterable[str]) -> dict[str, Any]:
    """Snapshots were deleted, in this order; their children went to their parents."""
    return {"do": "delete", "ids": list(ids)}


def rename_record(id: str, name: str) -> dict[str, Any]:
    """A snapshot got another name; it is automatic no more."""
    return {"do": "rename", "id": id, "name": name}


def describe_record(id: str, description: str) -> dict[str, Any]:
    """A snapshot got another description."""
    return {"do": "describe", "id": id, "description": description}


def current_record(id: str) -> dict[str, Any]:
    """What the VM's state descends from was found out; empty where it is unknown."""
    return {"do": "current", "id": id}


def format_line(at_ns: int, record: Mapping[str, Any]) -> bytes:
    """Return the line of a record."""
    text = json.dumps({"at": iso_time(at_ns), **record}, ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def replay(data: bytes) -> Lineage:
    """Return what the bytes of a lineage file say; never fails, damage is counted."""
    snapshots: dict[str, Snapshot] = {}
    deleted: dict[str, Snapshot] = {}
    current = NIL
    damaged = 0 if not data or data.startswith(HEADER) else 1
    sure = True
    began_ns: int | None = None
    undo: Undo | None = None
    for line in data.split(b"\n"):
        if not line or line + b"\n" == HEADER:
            continue
        try:
            checksum, _, text = line.partition(b" ")
            if int(checksum, 16) != zlib.crc32(text):
                raise ValueError("checksum")
            record = json.loads(text)
            current = _apply(record, snapshots, deleted, current)
            undo = read_undo(record.get("undo")) or undo
            if began_ns is None:
                began_ns = _time_ns(record["at"])
            sure = sure or record["do"] in ("create", "load", "current")
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
            sure = False
            undo = None  # the line may have been that of a load
    return Lineage(tuple(snapshots.values()), current, damaged, tuple(deleted.values()), sure, began_ns, undo)


def _time_ns(at: str) -> int:
    """Return the moment that iso_time has written."""
    return round(datetime.fromisoformat(at).timestamp() * 1000) * 10**6


def _apply(record: dict[str, Any], snapshots: dict[str, Snapshot], deleted: dict[str, Snapshot], current: str) -> str:
    match record["do"]:
        case "create" | "add" as how:
            snapshot = from_record(record["snapshot"])
            snapshots[snapshot.id] = snapshot
            deleted.pop(snapshot.id, None)
            return snapshot.id if how == "create" else current
        case "load" | "current":
            return str(record["id"])
        case "delete":
            for id in record["ids"]:
                gone = snapshots.pop(id, None)
                if gone is None:
                    continue
                deleted[id] = gone
                for child in [s for s in snapshots.values() if s.parent_id == id]:
                    snapshots[child.id] = replace(child, parent_id=gone.parent_id)
                if current == id:
                    current = gone.parent_id
        case "rename":
            # Who names an automatic one wants to keep it.
            snapshots[record["id"]] = replace(snapshots[record["id"]], name=str(record["name"]), automatic=False)
        case "undo":
            pass
        case "describe":
            snapshots[record["id"]] = replace(snapshots[record["id"]], description=str(record["description"]))
        case "flaw":
            snapshots[record["id"]] = replace(snapshots[record["id"]], flaw=str(record["flaw"]))
        case other:
            raise ValueError(other)
    return current


def read(path: Path) -> Lineage | None:
    """Return what the lineage file says; ``None`` where there is none.

    :raises CatalogError: where it cannot be read at all; that is no damage of its content.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CatalogError(
            f"The lineage file {path} cannot be read: {error.strerror}.", "Check who may read there."
        ) from error
    return replay(data)


def write_anew(path: Path, at_ns: int, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the file with these records and nothing else, durably; a reader sees the old content or the new, whole.

    :raises CatalogError: where it cannot be written; the file is as it was.
    """
    stage = path.with_name(f"{path.name}.new")
    try:
        fd = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(HEADER + b"".join(format_line(at_ns, record) for record in records))
            file.flush()
            os.fsync(file.fileno())
        stage.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error


def append(path: Path, at_ns: int, record: Mapping[str, Any], *, durable: bool = True) -> None:
    """Append a record.

    Effects on failure: the file is as it was.

    :param durable: flush it; else :func:`flush` is to follow.
    :raises CatalogError: where it cannot be written, for example because the disk is full.
    """
    line = format_line(at_ns, record)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            end = _whole_lines(fd)
            data = line if end else HEADER + line
            try:
                write_whole(fd, data, end)
                if durable:
                    os.fdatasync(fd)
            except OSError:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)
    except OSError as error:
        raise _unwritten(path, error) from error


def flush(path: Path) -> None:
    """Make durable what was appended.

    :raises CatalogError: where that cannot be.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> CatalogError:
    words = f"The lineage file {path} cannot be written: {error.strerror}."
    if error.errno == errno.ENOSPC:
        return CatalogError(f"{words} {shortage([(path, 0)], surely=True)}".rstrip(), "Make room there, and try again.")
    return CatalogError(words, "Make room, or check who may write there.")


def _whole_lines(fd: int) -> int:
    """Return where the last whole line ends, and cut off what a crash left behind it."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) == b"\n":
        return size
    end = size
    while end:
        start = max(0, end - 65536)
        chunk = os.pread(fd, end - start, start)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
    return end
