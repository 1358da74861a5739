"""How the RAM of a VM's snapshots is kept, in pages or in full, and why.  Not for: taking or loading any.

Pages need RAM in files that QEMU maps shared, and QEMU's leave to look at it; where either is missing everything works
the full way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ..model.errors import PageStoreError, QEMUFailed, QEMUGone, Refused, SnaptreeError, UsageError
from ..model.names import printable
from ..model.reason import Reason
from ..model.snapshot import Memory, Snapshot
from ..qcow2.vmstate import IGNORE_SHARED, VMStateHead
from ..qemu.facts import Facts
from ..qemu.session import Reply, Session

if TYPE_CHECKING:
    from ..memory.layout import RAMRegion
    from .paged import PagedRAM
    from .vm import VM

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

TRACKER = "SNAPTREE_TRACKER"
"""The environment variable that chooses the tracker: ``userfaultfd`` or ``compare``; else it is found by probing."""


async def choose(vm: VM, wanted: str, why: str) -> None:
    """Find out which way the VM's snapshots are taken, and open its RAM where it is pages.

    Effects: ``vm.paged`` is set where RAM can be kept in pages, and ``vm.memory_why`` says why it is, or isn't.

    :param wanted: ``auto``, ``pages`` or ``full``.
    :param why: what is known already of why it can only be full; may be empty.
    :raises Refused: where pages were wanted, and can't be had.
    """
    if wanted == "full":
        vm.memory_why = why or "--memory full was given."
        return
    try:
        if vm.process is None:
            raise SnaptreeError("It is not known which process QEMU is, so its RAM cannot be looked at.")
        backends = await shared_backends(vm.session)
        vm.paged = await asyncio.to_thread(_open, vm, vm.process.pid, backends)
        vm.memory_why = vm.paged.tracker.why
    except QEMUGone:
        raise
    except (SnaptreeError, OSError) as error:
        vm.memory_why = why or str(error)
        if wanted == "pages":
            raise Refused(f"RAM cannot be kept in pages: {vm.memory_why}", "Leave out --memory pages.") from error


async def shared_backends(session: Session) -> list[tuple[str, str, int]]:
    """Return block, file and size of every memory backend that ``x-ignore-shared`` leaves out of a VM state.

    QEMU up to 8.0 leaves a shared memfd of its own out too, newer ones do not; it counts as none of these.
    """
    found = []
    for item in await session.execute("query-memdev"):
        if item.get("share") and item.get("id"):
            path = f"/objects/{item['id']}"
            with contextlib.suppress(QEMUFailed):
                file = await session.execute("qom-get", {"path": path, "property": "mem-path"})
                found.append((str(item["id"]), str(file), int(item["size"])))
    return sorted(found)


def _open(vm: VM, pid: int, backends: list[tuple[str, str, int]]) -> PagedRAM:
    """Open the RAM of a QEMU, and choose a tracker.

    :raises SnaptreeError, OSError: where it can't be.
    """
    if not backends:
        raise SnaptreeError(
            "QEMU's RAM is its own, and cannot be looked at.", "`snaptree run` puts it where that is possible."
        )
    try:
        from ..memory.ram import Backend, find_regions  # noqa: PLC0415  numpy takes 100 ms
    except ImportError as error:
        raise SnaptreeError(f"Python's package numpy is missing: {error}.", "Install it.") from error
    regions, reasons = find_regions(pid, [Backend(*backend) for backend in backends], vm.ram_addresses)
    if reasons:
        raise SnaptreeError(reasons[0].message, reasons[0].remedy)
    return open_regions(vm, pid, regions)


def open_regions(vm: VM, pid: int, regions: Sequence[RAMRegion]) -> PagedRAM:
    """Open the RAM of a QEMU that lies there, and choose a tracker.

    :raises SnaptreeError, OSError: where it can't be.
    """
    from ..memory.ram import GuestRAM  # noqa: PLC0415  numpy
    from ..memory.tracker import choose as choose_tracker  # noqa: PLC0415
    from .paged import PagedRAM  # noqa: PLC0415

    ram = GuestRAM(pid, regions)
    try:
        tracker = choose_tracker(pid, ram, _wanted_tracker())
        return PagedRAM(ram, tracker, vm.store())
    except BaseException:
        ram.close()
        raise


def _wanted_tracker() -> Literal["auto", "userfaultfd", "compare"]:
    match os.environ.get(TRACKER, "auto"):
        case "auto" | "userfaultfd" | "compare" as wanted:
            return wanted
        case other:
            raise UsageError(f"{TRACKER} is {printable(other)}.", "It may be auto, userfaultfd or compare.")


def note_addresses(vm: VM, regions: Iterable[RAMRegion]) -> None:
    """Write down where RAM is, before QEMU's mappings no longer tell."""
    vm.ram_addresses = {region.block: region.address for region in regions}
    running = vm.place.running()
    if running is not None:
        vm.place.write_running(replace(running, ram=vm.ram_addresses))


def memory_now(vm: VM, facts: Facts) -> tuple[Memory, str]:
    """Return how a snapshot that is taken now keeps RAM, and why."""
    if vm.paged is None:
        return "full", vm.memory_why
    ours = {block.name for block in vm.paged.layout}
    if others := sorted(set(facts.shared_backends) - ours):
        return "full", f"RAM that QEMU shares with others would be left out: {', '.join(others)}."
    if facts.unseen_writers:
        return "full", f"{', '.join(facts.unseen_writers)} writes into RAM where no tracker sees it."
    return "pages", vm.memory_why


def load_reasons(vm: VM, snapshot: Snapshot, head: VMStateHead | None) -> Iterator[Reason]:
    """Yield every reason why a snapshot's RAM cannot be loaded into this QEMU; QEMU would find some of them too late.

    :param head: what the head of its VM state says; ``None`` where it cannot be read from here.
    """
    name, paged = snapshot.name, vm.paged
    if head is not None and (IGNORE_SHARED in head.capabilities) != (snapshot.memory == "pages"):
        kept = "in" if snapshot.memory == "full" else "not in"
        yield Reason(
            "vm-state-kind",
            f"The VM state of {name} does not hold RAM in the way that was recorded: it should be {kept} it.",
            "Load another snapshot.",
        )
    if snapshot.memory == "pages":
        yield from _pages_reasons(vm, snapshot)
    if head is None or paged is None:
        return
    there = {block.name: block.size for block in head.ram_blocks}
    for block in paged.layout:
        if there.get(block.name) != block.size:
            had = f"{there[block.name]} bytes of it" if block.name in there else "none of that name"
            yield Reason(
                "ram-blocks",
                f"QEMU has the RAM block {block.name} of {block.size} bytes, and the VM state of {name} {had}.",
                "Start QEMU with the RAM of then.",
            )


def _pages_reasons(vm: VM, snapshot: Snapshot) -> Iterator[Reason]:
    name, paged = snapshot.name, vm.paged
    if paged is None:
        yield Reason(
            "ram-private",
            f"The RAM of {name} is kept in pages, and this QEMU's RAM cannot be written: {vm.memory_why}",
            "Stop the VM, and start it by `snaptree run` without --memory full.",
        )
        return
    if not paged.store.has(snapshot.id):
        yield Reason(
            "pages-missing",
            f"The RAM pages of {name} are not in the page store {vm.place.pages}.",
            "Load another snapshot; `snaptree check` says more.",
        )
        return
    try:
        fits = paged.fits(snapshot.id)
    except PageStoreError as error:
        yield Reason(
            "pages-damaged", error.message, error.remedy or "Load another snapshot; `snaptree check` says more."
        )
        return
    if not fits:
        yield Reason("ram-blocks", f"{name} has RAM blocks of other sizes.", "Start QEMU with the RAM of then.")


async def generation_id(vm: VM) -> str:
    """Return the VM generation id of the QEMU that runs; empty where it has none (no vmgenid device)."""
    if not vm.has_generation_id:
        return ""
    try:
        return str((await vm.session.execute("query-vm-generation-id"))["guid"])
    except QEMUGone:
        raise
    except QEMUFailed:
        return ""


def in_job(vm: VM, *, paged: bool) -> AbstractAsyncContextManager[None]:
    """Let QEMU leave shared RAM out in one job of ours, where that was not said for the whole pause.

    Another monitor could save in the pause too, and shall get all of RAM.
    """
    return ignoring_shared(vm.session) if paged and not vm.sole else contextlib.nullcontext()


@asynccontextmanager
async def ignoring_shared(session: Session) -> AsyncIterator[None]:
    """Let QEMU leave shared RAM out of what it saves or loads, inside only.

    Left on, a save or a migration by somebody else would hold no RAM, without a word.
    """
    await ignore_shared(session, on=True)
    try:
        yield
    finally:
        if not session.closed.is_set():
            with contextlib.suppress(QEMUGone):
                await ignore_shared(session, on=False)


async def stop_ignoring(session: Session) -> None:
    """Turn off what a supervisor that died in a job of ours may have left on."""
    with contextlib.suppress(QEMUFailed):
        await ignore_shared(session, on=False)


async def ignore_shared(session: Session, *, on: bool) -> None:
    """Let QEMU leave shared RAM out of what it saves or loads, or no more."""
    await set_capabilities(session, (IGNORE_SHARED,), on=on)


def begin_ignoring_shared(session: Session) -> asyncio.Task[Any]:
    """As :func:`ignore_shared`, under way at once, also where nobody waits for it."""
    telling = session.begin("migrate-set-capabilities", _states((IGNORE_SHARED,), on=True))
    telling.add_done_callback(lambda told: told.cancelled() or told.exception())
    return telling


async def set_capabilities(session: Session, names: Iterable[str], *, on: bool) -> None:
    """Turn migration capabilities on or off."""
    await session.execute("migrate-set-capabilities", _states(names, on=on))


async def stop_ignoring_soon(session: Session) -> None:
    """Let QEMU save all of RAM again, without waiting for its answer: it does in order what is asked of it."""

    def answered(reply: Reply | QEMUGone) -> None:
        if isinstance(reply, dict) and "error" in reply:
            log.error("%s could not be turned off: %s", IGNORE_SHARED, reply["error"].get("desc"))

    message = {"execute": "migrate-set-capabilities", "arguments": _states((IGNORE_SHARED,), on=False)}
    if not session.ask(message, answered):
        await ignore_shared(session, on=False)


def _states(names: Iterable[str], *, on: bool) -> dict[str, object]:
    return {"capabilities": [{"capability": name, "state": on} for name in names]}


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what reads or writes pages outside the event loop.

    :raises PageStoreError: where the system lets it down, for example because the disk is full.
    """
    with page_store_errors():
        return await asyncio.to_thread(work, *args, **kwargs)


@contextmanager
def page_store_errors() -> Iterator[None]:
    """Tell of the system's errors in what reads or writes pages.

    :raises PageStoreError: instead of each of them.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PageStoreError(
            f"RAM pages cannot be read or written{where}: {error.strerror or error}.", "Make room, and try again."
        ) from error
