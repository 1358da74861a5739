"""repair: do the steps of a plan, one after the other, on a VM that doesn't run.  Not for: deciding what they are.

Every step is durable before the next begins, and can be done twice: whatever is cut off, planning again finds the rest.
The catalog, or the lineage file, that is made anew is written beside the old one, which is moved aside and kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.history import Entry, Journal
from ..catalog.lineage import add_record, current_record, flaw_record, undo_record
from ..model.errors import CatalogError, Refused, SnaptreeError, VMRuns
from ..model.ids import NIL
from ..model.names import printable
from ..model.snapshot import Device, Snapshot
from ..model.tags import parse_tag
from ..places.files import sync_directory
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from ..places.signals import undisturbed
from ..qemu import imagelocks
from . import trace
from .check_findings import Report
from .check_pages import book_with_pages, free_pages
from .check_read import devices_of, examine, read_book
from .check_run import check_home, recorded
from .offline_hold import Stopped, disks_of, locked, opened
from .offline_recover import settle
from .rebuild import Rebuilt
from .repair_journal import remove_tag
from .repair_plan import Plan, Step, plan


@dataclass(frozen=True, slots=True)
class Work:
    """A repair that is planned, under the VM's lock.

    :ivar disks: the VM's devices.
    :ivar qemu_runs: QEMU runs and nobody supervises it: its images cannot be changed.
    """

    place: VMPlace
    lock: SupervisorLock
    plan: Plan
    disks: dict[str, Device]
    qemu_runs: bool

    def waits(self, step: Step) -> bool:
        """Say whether a step cannot be done while QEMU runs."""
        return self.qemu_runs and step.needs_rest


@contextmanager
def repairing(place: VMPlace) -> Iterator[Work]:
    """Plan a repair, and keep everybody else away from the VM until it is done.

    :raises VMRuns: where the VM is supervised.
    :raises Refused: where a newer snaptree wrote its catalog.
    :raises CatalogError: where its home cannot be read and that is no damage (permissions).
    """
    with _locked(place) as lock:
        book = read_book(place)
        problem = book.catalog_problem
        if problem is not None and problem.code == "catalog-newer":
            raise Refused(problem.message, problem.remedy)
        disks = _disks(place)
        known = devices_of(recorded(book), disks)
        examined = examine(known)
        found = plan(book_with_pages(book, place, examined, fast=False), examined, disks)
        runs = place.state().qemu_pid is not None or place.state().state == "unsupervised"
        yield Work(place, lock, found, {device.device: device for device in known}, runs)


def perform(work: Work, *, client: str, done: Callable[[Step], None] = lambda step: None) -> Report:
    """Do all steps, and check once more.

    Prerequisites: the user agrees to the plan.
    Effects on failure: the steps before are done and durable; another repair does the rest.

    :param done: called after every step.
    :raises Refused: where an image is in use.
    :raises ImageError, CatalogError: where an image, the catalog or the lineage file can't be written.
    """
    with undisturbed():
        for step in work.plan.steps:
            if work.waits(step):
                continue
            trace.point(f"repair.{step.kind}.before")
            _do(work, step, client)
            trace.point(f"repair.{step.kind}.after")
            done(step)
    return check_home(work.place)


def _do(work: Work, step: Step, client: str) -> None:
    place = work.place
    match step.kind:
        case "rebuild-catalog":
            assert work.plan.rebuilt is not None
            rebuild_catalog(place, work.plan.rebuilt, client)
        case "rewrite-lineage":
            with opened(place) as catalog:
                rewrite_lineage(place, catalog, client)
        case "free-pages":
            free_pages(place, step.ids)
        case "end-operation" | "remove-remnant":
            with _held(work) as vm:
                if step.kind == "end-operation":
                    settle(vm)
                else:
                    _remove(vm, step, client)
        case "add-snapshot" | "mark-inconsistent" | "mark-whole":
            assert step.snapshot is not None
            with opened(place) as catalog:
                if step.kind == "add-snapshot":
                    _add(place, catalog, step.snapshot, client)
                else:
                    _mark(place, catalog, step.snapshot, step.flaw, client)


def rebuild_catalog(place: VMPlace, rebuilt: Rebuilt, client: str) -> None:
    """Write a new catalog, move a damaged one aside, and put the new one in its place.

    A crash in between leaves no catalog, which is not mistaken for a new VM, and another repair begins anew.
    """
    stage = place.catalog.with_name(f"{place.catalog.name}.new")
    try:
        for path in _files(stage):
            path.unlink(missing_ok=True)
        catalog = Catalog.open(stage, create=True)
        try:
            entry = _entry(catalog, "", "", client, result=f"ok, the catalog was made anew from the {rebuilt.source}")
            catalog.filled(rebuilt.snapshots, rebuilt.current, entry, rebuilt.undo)
        finally:
            catalog.close()
        trace.point("repair.rebuild-catalog.written")
        # The catalog itself first: without its -wal it would be an older one, and look whole.
        set_aside(place.catalog)
        trace.point("repair.rebuild-catalog.aside")
        stage.rename(place.catalog)
        sync_directory(place.directory)
    except OSError as error:
        raise CatalogError(
            f"A new catalog cannot be written to {place.directory}: {error.strerror}.",
            "Make room, or check who may write there.",
        ) from error


def rewrite_lineage(place: VMPlace, catalog: Catalog, client: str) -> None:
    """Write the lineage file anew from a catalog; a damaged one is kept aside."""
    with suppress(FileNotFoundError):
        os.link(place.lineage, _aside(place.lineage))
    current = catalog.current()
    # The oldest first, as they were created; parents, names and flaws are those of now.
    records = [add_record(snapshot) for snapshot in catalog.snapshots()]
    undo = catalog.undo()
    if undo is not None:
        records.append(undo_record(undo))
    lineage.write_anew(place.lineage, time.time_ns(), [*records, current_record(current.id)])
    trace.point("repair.rewrite-lineage.written")
    catalog.ended(_entry(catalog, "", "", client, result="ok, the lineage file was written anew"))


def set_aside(path: Path) -> None:
    """Give a file, and what SQLite keeps beside it, names that nothing has yet: ``NAME.damaged-N``."""
    names = _files(path)
    aside = _aside(path)
    for old in names:
        with suppress(FileNotFoundError):
            old.rename(aside.with_name(aside.name + old.name.removeprefix(path.name)))
    sync_directory(path.parent)


def _aside(path: Path) -> Path:
    number = 1
    while any(file.exists() for file in _files(path.with_name(f"{path.name}.damaged-{number}"))):
        number += 1
    return path.with_name(f"{path.name}.damaged-{number}")


def _files(path: Path) -> list[Path]:
    """Return an SQLite file, and those that SQLite makes beside it."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))]


def _add(place: VMPlace, catalog: Catalog, snapshot: Snapshot, client: str) -> None:
    lineage.append(place.lineage, time.time_ns(), add_record(snapshot))
    trace.point("repair.add-snapshot.lineage")
    catalog.added(snapshot, _entry(catalog, snapshot.name, snapshot.id, client, result="ok, it was in the images"))


def _mark(place: VMPlace, catalog: Catalog, snapshot: Snapshot, flaw: str, client: str) -> None:
    lineage.append(place.lineage, time.time_ns(), flaw_record(snapshot.id, flaw))
    trace.point("repair.mark.lineage")
    result = f"ok, marked as not whole: {flaw}" if flaw else "ok, it is whole again"
    catalog.flawed(snapshot.id, flaw, _entry(catalog, snapshot.name, snapshot.id, client, result=result))


def _remove(vm: Stopped, step: Step, client: str) -> None:
    raw = {"tag": step.tag, "devices": list(step.devices)}
    vm.catalog.begin(Journal("repair", time.time_ns(), client, raw))
    trace.point("repair.remove-remnant.begun")
    remove_tag(vm, step.tag)
    tag = parse_tag(step.tag)
    where = ", ".join(printable(device)[1:-1] for device in step.devices)
    result = f"ok, what a create had left was removed from {where}"
    vm.catalog.ended(_entry(vm.catalog, tag.name if tag else "", tag.id if tag else "", client, result=result))


def _entry(catalog: Catalog, name: str, id: str, client: str, *, result: str) -> Entry:
    current = catalog.current()
    found = catalog.by_id(current.id) if current.id not in ("", NIL) else None
    from_name = found.name if found else ""
    return Entry(time.time_ns(), "repair", name, id, current.id, from_name, client, result=result)


@contextmanager
def _held(work: Work) -> Iterator[Stopped]:
    """Hold all images of the VM; one that is gone cannot be held, and need not be."""
    with ExitStack() as stack:
        catalog = stack.enter_context(opened(work.place))
        there = {name: device for name, device in work.disks.items() if Path(device.file).exists()}
        images = stack.enter_context(imagelocks.held(device.file for device in there.values()))
        yield Stopped(work.place, catalog, work.lock, there, images)


def _disks(place: VMPlace) -> dict[str, Device]:
    """Return the VM's devices; without a ``command.json`` that says so those of its snapshots must do."""
    try:
        return disks_of(place)
    except SnaptreeError:
        return {}


@contextmanager
def _locked(place: VMPlace) -> Iterator[SupervisorLock]:
    try:
        with locked(place) as lock:
            yield lock
    except VMRuns as error:
        raise VMRuns(
            f"The VM {place.name} is looked after; a repair needs it for itself.",
            f"`snaptree check {place.name}` checks it as it is; `snaptree stop {place.name}` ends it, then repair it.",
        ) from error
