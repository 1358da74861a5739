"""The RAM of a VM that goes on from a snapshot of its own, mapped from its page store.  Not for: reading it all first.

What a fork has of another VM's store, a resume has of the VM's own: QEMU's main thread maps the read-only files over
the memory that QEMU has, privately, so that only what the guest writes takes memory, and no file is ever written
through it.  All pages are checked before the guest goes on.  As long as QEMU lives, none of them is freed (``held``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..memory import held, sound, userfault
from ..memory.kernel import SYS_CLOSE, SYS_MMAP
from ..memory.layout import Backend, RAMRegion, find_regions
from ..memory.pages import block_start, chunks
from ..memory.ptrace import Traced, TracingRefused
from ..memory.store import PageStore
from ..model.errors import SnaptreeError
from ..model.reason import Reason
from ..places.lock import SupervisorLock
from ..places.places import VMPlace
from . import forkram, ramway, trace
from .forkram import RAMImage
from .paged import CHUNK_PAGES, PagedRAM

if TYPE_CHECKING:
    from .vm import VM

MAP_SHARED = 0x01
"""linux/mman.h"""
FILES_MAX = 128
"""QEMU inherits so many at most; 1,024 are what a process may commonly have open."""

_OURS = "/memfd:snaptree:"
_DESCRIPTOR = re.compile(r"/proc/[0-9]+/fd/([0-9]+)")


class CannotMap(SnaptreeError):
    """RAM cannot be mapped, and has to be read instead; nothing of it was changed."""


@dataclass(frozen=True)
class LazyRAM:
    """A snapshot's RAM, ready to be mapped by a QEMU that is yet to be started.

    :param store: the VM's, open for this alone.
    :param image: how RAM is made.
    :param files: our descriptors of the files that it is made of; QEMU inherits them.
    :param lock: keeps the pages, as long as we have it or QEMU, which inherits it too.
    :param checking: ends once all pages were checked.
    :param closing: lets go of all that, once QEMU has what it needs.
    """

    id: str
    store: PageStore
    image: RAMImage
    files: Mapping[Path, int]
    lock: SupervisorLock
    checking: Future[None]
    closing: contextlib.ExitStack

    @property
    def inherited(self) -> list[int]:
        """The descriptors that QEMU has to inherit."""
        return [*self.files.values(), self.lock.fd]


def open_ram(place: VMPlace, id: str) -> LazyRAM:
    """Make a snapshot's RAM ready to be mapped, and begin to check it.

    Prerequisites: the caller holds the VM's lock, and its QEMU doesn't run.
    Effects on success: what a crash has left in the store is removed; the snapshot's pages stay.
    Effects on failure: likewise, and nothing else.

    :raises SnaptreeError, OSError: where it can't be mapped.
    """
    if os.environ.get(ramway.TRACKER) == "compare":
        raise CannotMap("Pages that are mapped could be compared only slowly.")
    userfault.check()
    with contextlib.ExitStack() as undo:
        store = PageStore.open(place.pages, clean=True, trace=trace.point)
        undo.callback(store.close)
        image = _of_few_files(forkram.image_of(store, id))
        lock = held.hold(store, id)
        undo.callback(lock.release)
        files = undo.enter_context(forkram.opened(image.files))
        pool = ThreadPoolExecutor(1, "snaptree-check")
        undo.callback(pool.shutdown)
        return LazyRAM(id, store, image, files, lock, pool.submit(sound.check, store, id), undo.pop_all())


def let_go(ram: LazyRAM, pid: int | None = None) -> None:
    """Keep the pages no longer: RAM will be read.

    :param pid: a QEMU that has inherited what it doesn't need; where it can't be traced it keeps that.
    """
    with contextlib.suppress(SnaptreeError):
        held.let_go(ram.store, ram.id)
    if pid is not None:
        with contextlib.suppress(SnaptreeError, OSError), Traced(pid) as traced:
            for fd in ram.inherited:
                with contextlib.suppress(OSError):  # closed already
                    traced.call(SYS_CLOSE, fd)
    ram.closing.close()


async def map_ram(vm: VM, ram: LazyRAM) -> None:
    """Map the snapshot's RAM in a QEMU whose guest has not run; its scattered pages are not written yet.

    Effects on success: a later supervisor finds where RAM is.
    Effects on failure: RAM is as QEMU made it.

    :raises CannotMap: where that can't be.
    :raises SnaptreeError, OSError: where QEMU has to be ended.
    """
    if vm.process is None:
        raise CannotMap("It is not known which process QEMU is.")
    facts = await vm.facts()
    if facts.unseen_writers:
        raise CannotMap(f"{facts.unseen_writers[0]} needs RAM that is in a file of QEMU's own.")
    backends = await ramway.shared_backends(vm.session)
    try:
        await asyncio.to_thread(_map, vm, vm.process.pid, backends, ram)
    except BaseException:
        vm.ram_addresses = {}
        raise


def _map(vm: VM, pid: int, backends: Sequence[tuple[str, str, int]], ram: LazyRAM) -> None:
    try:
        regions, reasons = find_regions(pid, [Backend(*backend) for backend in backends])
        _check_regions(regions, reasons, ram)
    except (SnaptreeError, OSError) as error:
        raise CannotMap(getattr(error, "message", str(error))) from error
    vm.ram_addresses = {region.block: region.address for region in regions}
    _note(vm)
    trace.point("resume.mapping")
    try:
        forkram.map_image(pid, regions, ram.image, ram.files)
    except TracingRefused as error:
        raise CannotMap(error.message) from error
    except OSError as error:
        _map_own(pid, regions)
        raise CannotMap(f"QEMU cannot map the pages: {error.strerror}.") from error
    trace.point("resume.mapped")


def _of_few_files(image: RAMImage) -> RAMImage:
    """Return an image that maps no more files than a process may commonly open; what is in the others is copied."""
    pages = Counter[Path]()
    for _, run in image.mapped:
        if run.path is not None:
            pages[run.path] += run.count
    if len(pages) <= FILES_MAX:
        return image
    kept = {path for path, _ in pages.most_common(FILES_MAX)}
    mapped, copied = [], [image.copied]
    for block, run in image.mapped:
        if run.path is None or run.path in kept:
            mapped.append((block, run))
        else:
            first = block_start(image.layout, block) + run.page_in_block
            copied.append(np.arange(first, first + run.count, dtype=np.int64))
    return replace(image, mapped=tuple(mapped), copied=np.sort(np.concatenate(copied)))


def _check_regions(regions: Sequence[RAMRegion], reasons: Sequence[Reason], ram: LazyRAM) -> None:
    """Make sure that a snapshot's RAM can be mapped over that of a QEMU.

    :raises CannotMap: where it can't be.
    """
    if reasons:
        raise CannotMap(reasons[0].message)
    if {(r.block, r.size) for r in regions} != {(b.name, b.size) for b in ram.image.layout}:
        raise CannotMap("QEMU has other RAM blocks than the snapshot.")
    for region in regions:
        path = Path(region.path)
        if not str(path.resolve()).startswith(_OURS):
            raise CannotMap(f"The RAM block {region.block} is in a file that is not ours.")
        if path.stat().st_blocks * 512 > region.size // 2:
            raise CannotMap(f"QEMU has taken the memory of the RAM block {region.block} already.")


def _note(vm: VM) -> None:
    """Write down where RAM is, which QEMU's mappings do not tell, before they don't."""
    running = vm.place.running()
    if running is not None:
        vm.place.write_running(replace(running, ram=vm.ram_addresses))


def settle(paged: PagedRAM, ram: LazyRAM) -> None:
    """Write the scattered pages.  The guest has not run.

    Effects on success: RAM is that of the snapshot, and known to be.

    :raises PagesDamaged: where one of the pages is.
    """
    for part in chunks(ram.image.copied, CHUNK_PAGES):
        forkram.copy_rest(paged.ram, paged.store, ram.id, replace(ram.image, copied=part))
    paged.arm()
    paged.settle(ram.id)


def _map_own(pid: int, regions: Sequence[RAMRegion]) -> None:
    """Map QEMU's own memory again, whose guest has not run."""
    with Traced(pid) as traced:
        for region in regions:
            match = _DESCRIPTOR.fullmatch(region.path)
            if match is None:
                raise SnaptreeError(f"QEMU's memory of the RAM block {region.block} cannot be mapped again.")
            protection = forkram.PROT_READ | forkram.PROT_WRITE
            flags = MAP_SHARED | forkram.MAP_FIXED
            traced.call(SYS_MMAP, region.address, region.size, protection, flags, int(match[1]), 0)
