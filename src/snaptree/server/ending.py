"""Whether QEMU has ended, or only its QMP connection.  Not for: ending it.

The connection may be cut while QEMU lives: what lies between (a proxy, a tunnel) was ended, or QEMU closed it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from ..model.errors import SnaptreeError
from ..qemu import imagelocks, launch
from ..qemu.session import Session

QUIT_TIMEOUT_S = 30.0
"""How long QEMU may take from the end of its QMP connection to its own, where it was told to end: it writes back."""
CRASH_TIMEOUT_S = 3.0
"""How long where it was not: a process that dies closes its descriptors one after the other."""
POLL_S = 0.05
GREETING_TIMEOUT_S = 1.0


async def has_ended(process: launch.Process | None, address: str, images: Iterable[str], *, expected: bool) -> bool:
    """Wait until QEMU has ended, after its QMP connection has; say whether it has, within the time that it may take.

    :param process: ``None`` where it is not known: then QEMU lives while somebody has one of the VM's images open as a
        QEMU has, or greets at ``address``.
    :param expected: QEMU was told to end, or said that it does.
    """
    timeout_s = QUIT_TIMEOUT_S if expected else CRASH_TIMEOUT_S
    waiting = process.wait() if process is not None else _wait_unseen(address, tuple(images))
    try:
        await asyncio.wait_for(waiting, timeout_s)
    except TimeoutError:
        return False
    return True


async def seems_alive(address: str, images: Iterable[str]) -> bool:
    """Say whether a QEMU whose process is not known shows that it lives."""
    if await asyncio.to_thread(lambda: any(imagelocks.in_use(file) for file in images)):
        return True
    try:
        session = await Session.connect(address, lambda event: None, timeout_s=GREETING_TIMEOUT_S)
    except SnaptreeError:
        return False
    with contextlib.suppress(SnaptreeError):
        await session.close()
    return True


async def _wait_unseen(address: str, images: tuple[str, ...]) -> None:
    while True:
        if not await seems_alive(address, images):
            return
        await asyncio.sleep(POLL_S)
