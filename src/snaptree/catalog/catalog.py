"""The catalog of one VM: snapshots, current, history, journal.  Not for: the images, which are the truth.

Every method is one transaction; what SQLite cannot do becomes a :class:`CatalogError`.  It is durable when it returns;
where ``durable`` is false, only against a crash of this process: a crash of the host may undo it, together with all
that was written after it.  One thread at a time may use a catalog.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from ..model.errors import CatalogError, NoSuchSnapshot
from ..model.ids import NIL, check_prefix, match_id
from ..model.names import printable
from ..model.snapshot import Snapshot
from .history import Entry, Journal
from .mark import Mark
from .rows import COLUMNS, from_row, to_row
from .schema import MUST_BE_WRITABLE, CatalogDamaged, connect, damaged, repair_it
from .undo import Undo, read_undo

# Column names of our own, no value from outside.
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM snapshots"  # noqa: S608
_INSERT = f"INSERT INTO snapshots ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Current:
    """The snapshot that the VM's state descends from now.

    :param id: its id; nil where the VM descends from none; empty where that is unknown.
    :param why: why it is unknown.
    """

    id: str = NIL
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether it is known at all."""
        return self.id != ""


class Catalog:
    """An open catalog.

    :ivar may_have_journal: the journal may hold an operation; where false, none is under way or was left.  Another
        thread may read it.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self.may_have_journal = True
        self._mark = Mark(path.with_name("step"))

    @classmethod
    def open(cls, path: Path, *, create: bool = False, durable: bool = True) -> Catalog:
        """Open the catalog at ``path``.

        :param create: make a new one where there is none.
        :param durable: flush a new one to the disk.
        :raises CatalogError: where there is none, or it can't be used.
        """
        return cls(path, connect(path, create=create, durable=durable))

    def close(self) -> None:
        """Close it; SQLite folds the -wal file into it."""
        self._mark.close()
        self._db.close()

    # -- reading

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        return [self._snapshot(row) for row in self._rows(f"{_SELECT} ORDER BY created_ns, seq")]

    def names(self) -> dict[str, str]:
        """Return the name of each id."""
        return {id: name for id, name in self._rows("SELECT id, name FROM snapshots")}  # noqa: C416  typed

    def by_id(self, id: str) -> Snapshot | None:
        """Return the snapshot with this whole id."""
        return next((self._snapshot(row) for row in self._rows(f"{_SELECT} WHERE id = ?", id)), None)

    def by_name(self, name: str) -> Snapshot | None:
        """Return the snapshot of this name."""
        return next((self._snapshot(row) for row in self._rows(f"{_SELECT} WHERE name = ?", name)), None)

    def children(self, id: str) -> list[Snapshot]:
        """Return the snapshots whose parent is ``id``, oldest first."""
        return [
            self._snapshot(row) for row in self._rows(f"{_SELECT} WHERE parent_id = ? ORDER BY created_ns, seq", id)
        ]

    def find(self, *, name: str | None = None, id: str | None = None) -> Snapshot:
        """Return the snapshot of this name, or of this id or unique prefix of one.

        :raises NoSuchSnapshot: where there is none.
        :raises AmbiguousId, UsageError: where the prefix fits several, or is none.
        """
        if id is not None:
            check_prefix(id)
            found = self.by_id(id.lower())
            if found is None:
                found = self.by_id(match_id(id, [row[0] for row in self._rows("SELECT id FROM snapshots")]))
        else:
            # What cannot be a name is no one's; SQLite could not even ask for a lone surrogate.
            found = self.by_name(name) if name and name.isascii() else None
        if found is None:
            import difflib  # noqa: PLC0415  only an error needs it

            alike = difflib.get_close_matches(name or "", self.names().values(), 3)
            hint = f"`snaptree list {self._path.parent.name}` shows all."
            if alike:
                hint = f"Did you mean {' or '.join(alike)}?"
            raise NoSuchSnapshot(f"There is no snapshot {printable(name or '')}.", hint)
        return found

    def current(self) -> Current:
        """Return the snapshot that the VM's state descends from now."""
        state = dict(self._rows("SELECT key, value FROM state WHERE key IN ('current', 'current_why')"))
        return Current(state.get("current", NIL), state.get("current_why", ""))

    def undo(self) -> Undo | None:
        """Return what ``undo`` goes back to; ``None`` where there was no load."""
        for (value,) in self._rows("SELECT value FROM state WHERE key = 'undo'"):
            try:
                return read_undo(json.loads(value))
            except (KeyError, ValueError) as error:
                raise self._no_row(error) from error
        return None

    def history(self, limit: int | None = None) -> list[Entry]:
        """Return the last ``limit`` entries of history, or all, oldest first."""
        rows = self._rows(
            "SELECT at_ns, action, name, id, from_id, from_name, client, duration_ms, pause_ms, result FROM history"
            " ORDER BY seq DESC LIMIT ?",
            -1 if limit is None else limit,
        )
        return [Entry(*row) for row in rows][::-1]

    def journal(self) -> Journal | None:
        """Return the operation under way, or the one that its supervisor left behind."""
        for operation, started_ns, client, step, plan in self._rows(
            "SELECT operation, started_ns, client, step, plan FROM journal"
        ):
            try:
                journal = Journal(operation, started_ns, client, dict(json.loads(plan)), step)
            except (TypeError, ValueError) as error:
                raise self._no_row(error) from error
            with self._marking():
                marked, _, job_id = self._mark.read().partition(" ")
            return replace(journal, step=marked) if job_id and job_id == journal.plan.get("job_id") else journal
        self.may_have_journal = False
        return None

    def verify(self) -> None:
        """Read everything.

        :raises CatalogDamaged: where SQLite finds damage in the file, or a row is none.
        """
        words = [str(row[0]) for row in self._rows("PRAGMA integrity_check(1)")]
        if words != ["ok"]:
            raise CatalogDamaged(f"The catalog {self._path} is damaged: {'; '.join(words)}.", repair_it(self._path))
        self.snapshots()
        self.current()
        self.undo()
        self.history()
        self.journal()

    # -- writing

    def begin(self, journal: Journal, *, durable: bool = True) -> None:
        """Note that an operation begins; there is only one at a time."""
        self.may_have_journal = True
        with self._transaction(durable=durable) as db:
            db.execute(
                "INSERT INTO journal (only, operation, started_ns, client, step, plan) VALUES (1, ?, ?, ?, ?, ?)",
                (journal.operation, journal.started_ns, journal.client, journal.step, json.dumps(dict(journal.plan))),
            )

    def set_step(self, step: str, plan: Mapping[str, object], *, durable: bool = True) -> None:
        """Note how far the operation under way has come.

        SQLite writes nothing, durably or not, where step and plan are what they were.
        """
        with self._transaction(durable=durable) as db:
            db.execute("UPDATE journal SET step = ?, plan = ?", (step, json.dumps(dict(plan))))

    def open_mark(self) -> None:
        """Prepare :meth:`mark`; again does nothing."""
        with self._marking():
            self._mark.open()

    def mark(self, step: str, job_id: str, *, durable: bool) -> None:
        """Note how far the operation under way has come, as :meth:`set_step`, where its plan stays as it is.

        It takes microseconds, or 0.3 ms where ``durable``, and may be called in any thread.  Prerequisite:
        :meth:`open_mark`.

        :param job_id: of its plan, and of no other.
        """
        with self._marking():
            self._mark.write(f"{step} {job_id}", durable=durable)

    def created(self, snapshot: Snapshot, entry: Entry) -> None:
        """Add a snapshot, make it current, and end the operation."""
        with self._ending(entry) as db:
            db.execute(_INSERT, to_row(snapshot))
            _set_current(db, Current(snapshot.id))

    def loaded(self, id: str, entry: Entry, undo: Undo | None = None, *, durable: bool = True) -> None:
        """Make a snapshot current, and end the operation.

        :param undo: where the VM was before; ``None`` leaves what is known of that.
        """
        with self._ending(entry, durable=durable) as db:
            _set_current(db, Current(id))
            _set_undo(db, undo)
            db.execute("DELETE FROM state WHERE key = 'broken'")

    def broken(self) -> str:
        """Return why nothing may go on from the disks as they are; empty where all is well."""
        return next((value for (value,) in self._rows("SELECT value FROM state WHERE key = 'broken'")), "")

    def broke(self, why: str, entry: Entry) -> None:
        """Say that the disks don't belong together, until the next load; ends the operation."""
        with self._ending(entry) as db:
            db.execute("INSERT OR REPLACE INTO state (key, value) VALUES ('broken', ?)", (why,))

    def deleted(self, ids: Iterable[str], entries: Iterable[Entry], *, last: bool = True) -> None:
        """Remove snapshots; their children, and current, go to their parents.  ``last`` ends the operation."""
        with self._ending(*entries, last=last) as db:
            for id in ids:
                row = db.execute("SELECT parent_id FROM snapshots WHERE id = ?", (id,)).fetchone()
                if row is None:
                    continue
                db.execute("UPDATE snapshots SET parent_id = ? WHERE parent_id = ?", (row[0], id))
                db.execute("UPDATE state SET value = ? WHERE key = 'current' AND value = ?", (row[0], id))
                db.execute("DELETE FROM snapshots WHERE id = ?", (id,))

    def added(self, snapshot: Snapshot, entry: Entry) -> None:
        """Add a snapshot that the images hold already; current, and the operation under way, stay."""
        with self._ending(entry, last=False) as db:
            db.execute(_INSERT, to_row(snapshot))

    def flawed(self, id: str, flaw: str, entry: Entry) -> None:
        """Say why a snapshot is not whole; with an empty text, that it is whole again."""
        with self._ending(entry, last=False) as db:
            db.execute("UPDATE snapshots SET flaw = ? WHERE id = ?", (flaw, id))

    def filled(self, snapshots: Iterable[Snapshot], current: Current, entry: Entry, undo: Undo | None = None) -> None:
        """Write everything into a new catalog."""
        with self._ending(entry) as db:
            db.executemany(_INSERT, [to_row(snapshot) for snapshot in snapshots])
            _set_current(db, current)
            _set_undo(db, undo)

    def renamed(self, id: str, name: str, entry: Entry) -> None:
        """Give a snapshot another name; who names an automatic one wants to keep it, so it is automatic no more."""
        with self._ending(entry, last=False) as db:
            db.execute("UPDATE snapshots SET name = ?, automatic = 0 WHERE id = ?", (name, id))

    def described(self, id: str, description: str, entry: Entry) -> None:
        """Give a snapshot another description."""
        with self._ending(entry, last=False) as db:
            db.execute("UPDATE snapshots SET description = ? WHERE id = ?", (description, id))

    def set_current(self, current: Current) -> None:
        """Say what the VM's state descends from, or why that is unknown."""
        with self._transaction() as db:
            _set_current(db, current)

    def ended(self, *entries: Entry) -> None:
        """End an operation that changed nothing here, with the entries that say how it ended."""
        with self._ending(*entries):
            pass

    # -- inside

    def _snapshot(self, row: tuple[Any, ...]) -> Snapshot:
        try:
            return from_row(row)
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_row(error) from error

    @contextmanager
    def _marking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = f"The file {self._mark.path} cannot be used: {error.strerror or error}."
            raise CatalogError(words, MUST_BE_WRITABLE) from error

    def _no_row(self, error: Exception) -> CatalogDamaged:
        return CatalogDamaged(f"The catalog {self._path} holds what is no row of it: {error}.", repair_it(self._path))

    def _rows(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise damaged(self._path, error) from error

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        try:
            # NORMAL writes the log without a flush, and flushes it before its content goes into the database.
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise damaged(self._path, error) from error

    @contextmanager
    def _ending(self, *entries: Entry, last: bool = True, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._transaction(durable=durable) as db:
            yield db
            db.executemany(
                "INSERT INTO history"
                " (at_ns, action, name, id, from_id, from_name, client, duration_ms, pause_ms, result)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [astuple(e) for e in entries],
            )
            if last:
                db.execute("DELETE FROM journal")
        if last:
            self.may_have_journal = False


def _set_undo(db: sqlite3.Connection, undo: Undo | None) -> None:
    if undo is not None:
        db.execute("INSERT OR REPLACE INTO state (key, value) VALUES ('undo', ?)", (json.dumps(undo.to_json()),))


def _set_current(db: sqlite3.Connection, current: Current) -> None:
    db.executemany(
        "INSERT INTO state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [("current", current.id), ("current_why", current.why)],
    )
