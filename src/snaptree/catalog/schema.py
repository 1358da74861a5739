"""The catalog's tables and how a catalog file is opened.  Not for: what is written into them.

Format version 1 (``PRAGMA user_version``), apart from the program's version.  WAL with ``synchronous=FULL``: a
commit is durable when it returns (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from ..model.errors import CatalogError
from ..places.room import shortage

VERSION = 1

_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT})
"""What SQLite says of a file that is damaged; everything else (full, busy, read-only) is no damage."""
APPLICATION_ID = 0x536E6150  # "SnaP"
MUST_BE_WRITABLE = "The VM's folder must be writable by you, also for looking only: see its mode and its file system."
LOG_BYTES = 1 << 20
"""What the -wal and -shm files may need beside the catalog until it is folded into it."""

SCHEMA = """
CREATE TABLE state (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT NOT NULL UNIQUE,
    name           TEXT NOT NULL UNIQUE,
    parent_id      TEXT NOT NULL,
    tag            TEXT NOT NULL UNIQUE,
    created_ns     INTEGER NOT NULL,
    vm_clock_ns    INTEGER NOT NULL,
    memory         TEXT NOT NULL CHECK (memory IN ('full', 'pages', 'none')),
    vm_state_size  INTEGER NOT NULL,
    vmstate_device TEXT NOT NULL,
    devices        TEXT NOT NULL,
    machine        TEXT NOT NULL,
    description    TEXT NOT NULL,
    automatic      INTEGER NOT NULL CHECK (automatic IN (0, 1)),
    flaw           TEXT NOT NULL,
    memory_why     TEXT NOT NULL
) STRICT;

CREATE INDEX snapshots_parent ON snapshots (parent_id);

CREATE TABLE history (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns       INTEGER NOT NULL,
    action      TEXT NOT NULL,
    name        TEXT NOT NULL,
    id          TEXT NOT NULL,
    from_id     TEXT NOT NULL,
    from_name   TEXT NOT NULL,
    client      TEXT NOT NULL,
    duration_ms REAL NOT NULL,
    pause_ms    REAL NOT NULL,
    result      TEXT NOT NULL
) STRICT;

CREATE TRIGGER history_is_append_only_1 BEFORE UPDATE ON history BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;
CREATE TRIGGER history_is_append_only_2 BEFORE DELETE ON history BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TABLE journal (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    operation  TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    client     TEXT NOT NULL,
    step       TEXT NOT NULL,
    plan       TEXT NOT NULL
) STRICT;
"""


class CatalogLost(CatalogError):
    """There is no catalog where there was one."""


class CatalogDamaged(CatalogError):
    """The catalog's file is damaged, or is none."""


class CatalogNewer(CatalogError):
    """A newer snaptree wrote the catalog."""


def connect(path: Path, *, create: bool, durable: bool = True) -> sqlite3.Connection:
    """Open the catalog at ``path``; the connection may move between threads, but only one may use it at a time.

    :param create: make a new catalog where there is none.
    :param durable: flush a new one to the disk; what is written into it later is flushed in any case.
    :raises CatalogError: where there is none, it is no catalog, damaged, or of a newer version.
    """
    if not create and not path.exists():
        raise CatalogLost(f"There is no catalog at {path}.", repair_it(path))
    try:
        if create:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CatalogError(f"The catalog {path} cannot be opened: {why}.", MUST_BE_WRITABLE) from error
    try:
        _prepare(db, path, create, durable)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise damaged(path, error) from error
        raise
    return db


def damaged(path: Path, error: sqlite3.Error) -> CatalogError:
    """Return the error that says that SQLite could not use the catalog."""
    words = f"The catalog {path} cannot be used: {error}."
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
        return CatalogDamaged(words, repair_it(path))
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        words = f"{words} {shortage([(path, LOG_BYTES)], surely=True)}".rstrip()
        return CatalogError(words, "Make room there, and try again; the snapshots in the images are untouched.")
    return CatalogError(words, f"{MUST_BE_WRITABLE} The snapshots in the images are untouched.")


def repair_it(path: Path) -> str:
    """Return the remedy for a catalog that is lost or damaged."""
    return (
        f"The snapshots in the images are untouched; `snaptree repair {path.parent.name}` makes the catalog anew from"
        " the lineage file and from them."
    )


def _prepare(db: sqlite3.Connection, path: Path, create: bool, durable: bool) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version > VERSION and application == APPLICATION_ID:
        raise CatalogNewer(
            f"The catalog {path} has the format version {version}; this snaptree knows up to {VERSION}.",
            "Use the snaptree that wrote it, or a newer one.",
        )
    if tables and (application != APPLICATION_ID or version != VERSION):
        raise CatalogDamaged(f"{path} is an SQLite file, but no catalog of snaptree.", repair_it(path))
    if not tables and not create:
        raise CatalogDamaged(f"The catalog {path} is empty.", repair_it(path))
    if not tables and not durable:
        db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA journal_mode = WAL")
    if durable:
        db.execute("PRAGMA synchronous = FULL")
    if not tables:
        db.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        )
    if not durable:
        db.execute("PRAGMA synchronous = FULL")
