"""The RAM of a VM that goes on from a snapshot of its own, mapped from its page store.  Not for: reading it all first.

What a fork has of another VM's store, a resume has of the VM's own: QEMU's main thread maps the read-only files over
the memory that QEMU has, privately, so that only what the guest writes takes memory, and no file is ever written
through it.  All pages are checked before the guest goes on.  As long as QEMU lives, none of them is freed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..memory import sound, userfault
from ..memory.kernel import SYS_CLOSE, SYS_MMAP
from ..memory.layout import Backend, RAMRegion, find_regions
from ..memory.pages import PAGE, block_start, chunks
from ..memory.ptrace import Traced, TracingRefused
from ..memory.store import PageStore
from ..model.errors import SnaptreeError
from ..model.reason import Reason
from ..places.places import VMPlace
from . import forkram, ramway, trace
from .forkram import RAMImage
from .paged import CHUNK_PAGES, PagedRAM

if TYPE_CHECKING:
    from .vm import VM

MAP_SHARED = 0x01
"""linux/mman.h"""

_OURS = "/memfd:snaptree:"
_DESCRIPTOR = re.compile(r"/proc/[0-9]+/fd/([0-9]+)")


class CannotMap(SnaptreeError):
    """RAM cannot be mapped, and has to be read instead; nothing of it was changed."""


@dataclass(frozen=True)
class LazyRAM:
    """A snapshot's RAM, ready to be mapped by a QEMU that has inherited its files.

    :param store: the VM's, open for this alone.
    :param image: how RAM is made.
    :param checking: ends once all pages were checked.
    """

    id: str
    store: PageStore
    image: RAMImage
    checking: Future[None]


def open_ram(place: VMPlace, id: str, files: Collection[Path]) -> LazyRAM:
    """Find out how a snapshot's RAM is mapped, and begin to check its pages.

    Prerequisites: the caller holds the VM's lock, and the snapshot's pages.
    Effects on success: what a crash has left in the store is removed.
    Effects on failure: likewise, and nothing else.

    :param files: those that QEMU has; what is in others is copied.
    :raises SnaptreeError, OSError: where it can't be mapped.
    """
    userfault.check()
    with contextlib.ExitStack() as undo:
        store = PageStore.open(place.pages, clean=True, trace=trace.point)
        undo.callback(store.close)
        image = _of_files(forkram.image_of(store, id), files)
        pool = ThreadPoolExecutor(1, "snaptree-check")
        checking = pool.submit(sound.check, store, id)
        pool.shutdown(wait=False)
        undo.pop_all()
    return LazyRAM(id, store, image, checking)


def close(ram: LazyRAM) -> None:
    """Let go of the store, once nothing is read from it any more."""
    with contextlib.suppress(Exception):  # whoever wants to know how it ended asks before
        ram.checking.result()
    ram.store.close()


def close_in_qemu(pid: int, descriptors: Iterable[int]) -> None:
    """Close what a QEMU has inherited and doesn't need; where it can't be traced it keeps that."""
    with contextlib.suppress(SnaptreeError, OSError), Traced(pid) as traced:
        for fd in descriptors:
            with contextlib.suppress(OSError):  # closed already
                traced.call(SYS_CLOSE, fd)


async def map_ram(vm: VM, ram: LazyRAM, inherited: Mapping[Path, int]) -> None:
    """Map the snapshot's RAM in a QEMU whose guest has not run; its scattered pages are not written yet.

    Effects on success: a later supervisor finds where RAM is; QEMU has closed the files.
    Effects on failure: RAM is as QEMU made it.

    :param inherited: the descriptors that QEMU has of the files.
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
        await asyncio.to_thread(_map, vm, vm.process.pid, backends, ram, inherited)
    except BaseException:
        vm.ram_addresses = {}
        raise


def _map(
    vm: VM, pid: int, backends: Sequence[tuple[str, str, int]], ram: LazyRAM, inherited: Mapping[Path, int]
) -> None:
    try:
        regions, reasons = find_regions(pid, [Backend(*backend) for backend in backends])
        _check_regions(regions, reasons, ram)
    except (SnaptreeError, OSError) as error:
        raise CannotMap(getattr(error, "message", str(error))) from error
    ramway.note_addresses(vm, regions)
    trace.point("resume.mapping")
    try:
        forkram.map_image(pid, regions, ram.image, inherited)
    except TracingRefused as error:
        raise CannotMap(error.message) from error
    except OSError as error:
        _map_own(pid, regions)
        raise CannotMap(f"QEMU cannot map the pages: {error.strerror}.") from error
    trace.point("resume.mapped")


def _of_files(image: RAMImage, files: Collection[Path]) -> RAMImage:
    """Return an image that maps these files only; what is in others is copied."""
    mapped, copied = [], [image.copied]
    for block, run in image.mapped:
        if run.path is None or run.path in files:
            mapped.append((block, run))
        elif run.page_in_block == 0 and run.count * PAGE == _size(image, block):
            raise CannotMap("QEMU has not the file that most of RAM is in.")
        else:
            first = block_start(image.layout, block) + run.page_in_block
            copied.append(np.arange(first, first + run.count, dtype=np.int64))
    return replace(image, mapped=tuple(mapped), copied=np.sort(np.concatenate(copied)))


def _size(image: RAMImage, name: str) -> int:
    return next(block.size for block in image.layout if block.name == name)


def _check_regions(regions: Sequence[RAMRegion], reasons: Sequence[Reason], ram: LazyRAM) -> None:
    """Make sure that a snapshot's RAM can be mapped over that of a QEMU.

    :raises CannotMap: where it can't be.
    """
    if reasons:
        raise CannotMap(reasons[0].message)
    if not ram.image.fits(regions):
        raise CannotMap("QEMU has other RAM blocks than the snapshot.")
    for region in regions:
        path = Path(region.path)
        if not str(path.resolve()).startswith(_OURS):
            raise CannotMap(f"The RAM block {region.block} is in a file that is not ours.")
        if path.stat().st_blocks * 512 > region.size // 2:
            raise CannotMap(f"QEMU has taken the memory of the RAM block {region.block} already.")


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
