"""A QEMU under care, from the first connection to its end.  Not for: starting it, nor for who may.

It holds QEMU's one QMP connection, serves everybody else at ``qmp.sock``, and ends when QEMU does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..catalog.catalog import Catalog
from ..catalog.opening import open_catalog
from ..engine import ramway
from ..engine.arrive import Arrival
from ..engine.recover import mend, recover
from ..engine.vm import VM
from ..model.errors import QEMUGone, QEMUStartFailed, SnaptreeError
from ..model.names import printable
from ..model.snapshot import Device
from ..places.files import read_json, write_json
from ..places.places import Running, VMPlace
from ..places.process import identify
from ..qemu import launch
from ..qemu.monitors import reachable
from ..qemu.session import Session
from . import logs
from .asked import Asked, Insisted
from .before import check_disks, said_of_cold_start
from .ending import QUIT_TIMEOUT_S, has_ended
from .exchange import End, Options, Ready
from .server import Server

log = logging.getLogger(__name__)

WATCH_S = 0.2
RELAY_TIMEOUT_S = 5.0


SWITCH_INTERVAL_S = 0.0005
"""In a pause the event loop shall not wait long for a thread that reads pages: a tenth of Python's own interval."""


def _load_the_rest(*, pages: bool) -> None:
    """Load what a first fork would wait for; it needs the server, so it cannot be imported above.

    :param pages: snapshots keep RAM in pages.
    """
    offspring = importlib.import_module(".offspring", __package__)
    if pages:
        offspring.forking.preload()
    # What is there by now stays: the garbage collector need not look through it again, perhaps in a pause.
    gc.freeze()


class Supervised:
    """A QEMU under our care, from the first connection to its end."""

    def __init__(
        self,
        place: VMPlace,
        process: launch.Process | None,
        words: logs.QEMUWords,
        *,
        owns_qemu: bool,
        foreground: bool,
        attached: bool = False,
        options: Options,
    ) -> None:
        self.place = place
        self.process = process
        self.words = words
        self.owns_qemu = owns_qemu
        self.foreground = foreground
        self.attached = attached
        self.options = options
        self.memory_wanted = "auto"
        self.memory_why = ""
        self._address = ""
        self.session: Session | None = None
        self.vm: VM | None = None
        self.server: Server | None = None
        self.notes: list[str] = []
        self._asked = Asked()

    def note_running(self, address: str) -> None:
        """Write down which QEMU runs, so that the next supervisor finds it."""
        qemu = identify(self.process.pid) if self.process else None
        socket_path = str(self.place.runtime / "qmp.sock")
        ram = self.vm.ram_addresses if self.vm is not None else {}
        self.place.write_running(Running(qemu, address, socket_path, os.getpid(), self.attached, ram))

    async def connect(self, address: str) -> None:
        """Connect to a QEMU that runs."""
        self._address = address
        self.session = await Session.connect(address, self._on_event)

    async def connect_started(self, address: str, greeted: Callable[[], None] = lambda: None) -> None:
        """Connect to the QEMU that we have just started.

        :param greeted: as of :meth:`.Session.connect`.

        :raises QEMUStartFailed: where it ends instead, with its words.
        """
        assert self.process is not None
        self._address = address
        connecting = asyncio.create_task(Session.connect(address, self._on_event, greeted=greeted, timeout_s=None))
        ending = asyncio.create_task(self.process.wait())
        await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done() and connecting.exception() is None:
            ending.cancel()
            self.session = connecting.result()
            return
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        try:
            await asyncio.wait_for(ending, QUIT_TIMEOUT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        said = launch.last_words(self.place.qemu_log, self.words.start)
        how = launch.describe_status(self.process.status)
        raise QEMUStartFailed(
            f"QEMU {how} before it could be used. It said: {said}"
            if said
            else f"QEMU {how} at its start, without a word.",
            "Mend the command line; with the same words QEMU alone fails too.",
        )

    async def begin(
        self,
        record: dict[str, Any] | None,
        *,
        fresh: bool,
        same_qemu: bool,
        go: bool,
        attached_at: str | None = None,
        arrival: Arrival | None = None,
    ) -> None:
        """Look at the VM, bring it to a whole state, and let it run.

        :param record: what ``command.json`` shall say; ``None`` leaves it as it is.
        :param go: QEMU waits for us to continue it.
        :param attached_at: where a QEMU that ran already listens.
        :param arrival: the snapshot that QEMU waits for.
        :raises OtherDisks: where the VM of this name has others.
        """
        assert self.session is not None
        argv = (record if record is not None else read_json(self.place.command) or {}).get("argv")
        vm = self.take(open_catalog(self.place), argv)
        facts = await vm.facts()
        disks = [Device(d.device, d.node, d.file, d.size) for d in facts.devices]
        # The same process may have got a disk meanwhile; and QEMU hides all of them where one image is corrupt.
        if not (fresh or same_qemu or facts.nodes_error):
            check_disks(self.place, disks)
        if same_qemu and (known := self.place.running()) is not None:
            vm.ram_addresses = dict(known.ram)
        if attached_at is not None:
            self.note_running(attached_at)
        old = read_json(self.place.command) or {}
        kept = old.get("disks", []) if facts.nodes_error else [asdict(d) for d in disks]
        write_json(self.place.command, {**(record if record is not None else old), "disks": kept})
        waits = facts.run_state == "prelaunch" or arrival is not None
        if arrival is not None:
            await arrival.prepare(vm)
            self.note_running(f"unix:{self.place.qemu_socket}")
        await ramway.choose(vm, vm.memory_wanted, vm.memory_why)
        await self._recover(vm, same_qemu)
        if arrival is not None:
            await arrival.finish(vm)
            vm.warm = True
        if vm.broken:
            self.notes.append(f"{vm.broken} Load a snapshot: snaptree load {self.place.name} NAME.")
            await self.session.execute("stop")
        if not same_qemu and not self.attached and not vm.warm:
            self.notes += await vm.disk(said_of_cold_start, vm.place, vm.catalog)
        server = await self.open()
        await server.listen_too(self.options.listen, self.options.tls)
        if any(address.path is None and address.port == 0 for address in self.options.listen):
            served = ", ".join(map(str, server.tcp_addresses()))
            self.notes.append(f"{self.place.name} is served at {served} too.")
        if go and waits and not vm.broken:
            await self.session.execute("cont")

    def take(self, catalog: Catalog, argv: object) -> VM:
        """Take the VM into care: nothing is asked of it yet.

        :param argv: its command line as its user gave it, where that is known.
        """
        assert self.session is not None
        self.vm = vm = VM(self.place, catalog, self.session, self.process)
        vm.allow_raw = self.options.allow_raw
        vm.memory_wanted, vm.memory_why = self.memory_wanted, self.memory_why
        vm.mend = lambda: mend(vm)
        vm.sole = not self.attached and isinstance(argv, list) and not reachable([str(word) for word in argv])
        return vm

    async def open(self) -> Server:
        """Let clients come in."""
        assert self.vm is not None
        self.server = server = Server(self.vm)
        await server.listen(self.place.runtime / "qmp.sock")
        return server

    async def _recover(self, vm: VM, same_qemu: bool) -> None:
        """Finish or undo what was cut off; where that can't be now, the next operation tries again."""
        try:
            said = await recover(vm, same_qemu=same_qemu)
        except QEMUGone:
            raise
        except SnaptreeError as error:
            journal = await vm.disk(vm.catalog.journal)
            said = f"What was cut off cannot be finished or undone now; the next command tries again. {error}"
            if journal is not None and journal.operation == "load":
                vm.broken = f"A load was cut off, and could not be finished: {error.message}"
        if said:
            self.notes.append(said)

    async def serve(self, ready: Callable[[Ready], None]) -> End:
        """Serve until QEMU has ended, or a signal asks us to end."""
        assert self.vm
        assert self.session
        assert self.server
        self._asked.listen()
        ready(
            Ready(
                self.place.name,
                f"unix:{self.place.runtime / 'qmp.sock'}",
                self.process.pid if self.process else None,
                os.getpid(),
                "running" if self.vm.run_state == "running" else "paused",
                tuple(self.notes),
            )
        )
        watching = asyncio.create_task(self._watch())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        loading = asyncio.create_task(asyncio.to_thread(_load_the_rest, pages=self.vm.paged is not None))
        try:
            ended = asyncio.create_task(self.session.closed.wait())
            signalled = asyncio.create_task(self._asked.once.wait())
            await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
            signalled.cancel()
            if not ended.done():
                async with self._asked.holding(self.vm.lock):
                    if not self.owns_qemu:
                        ended.cancel()
                        return await self._leave()
                    with contextlib.suppress(SnaptreeError):
                        await self._asked.unless_insisted(self.session.execute("quit"))
                ended.cancel()
            end = await self._gone()
            if end.failed:
                log.warning("%s", end.words)
            return end
        except Insisted:
            return await self._leave()
        finally:
            watching.cancel()
            await asyncio.gather(watching, loading, return_exceptions=True)
            await self._relay()

    async def _leave(self) -> End:
        """Leave QEMU running; what was cut off is in the journal."""
        await self.let_go(keep_running=True)
        pid = f" (pid {self.process.pid})" if self.process else ""
        words = f"QEMU{pid} runs on; `snaptree attach {self.place.name}` takes it up again."
        return End(words, qemu_runs=True)

    async def _gone(self) -> End:
        """QEMU has ended, or its connection has."""
        assert self.vm
        assert self.server
        asked = self._asked.once.is_set() or self.server.quit_asked or self.vm.run_state == "shutdown"
        if not await has_ended(self.process, self._address, self.vm.files(), expected=asked):
            await self.let_go(keep_running=True)
            pid = f" (pid {self.process.pid})" if self.process else ""
            words = f"The QMP connection {printable(self._address, 200)} to QEMU{pid} has ended, and QEMU runs on;"
            again = f"`snaptree attach {self.place.name}` takes it up again, once somebody answers there."
            return End(f"{words} {again}", failed=True, qemu_runs=True)
        await self.let_go(keep_running=False)
        status = self.process.status if self.process else None
        if status in (0, None) and (asked or status == 0):
            return End("QEMU has ended.")
        return End(self.how_it_ended(), failed=True)

    def how_it_ended(self) -> str:
        """Say how QEMU has ended, and its last words."""
        how = launch.describe_status(self.process.status if self.process else None)
        said = launch.last_words(self.place.qemu_log, self.words.start)
        return f"QEMU {how}. It said: {said}" if said else f"QEMU {how}, without a word."

    async def let_go(self, *, keep_running: bool) -> None:
        """Close everything of ours; QEMU is not touched."""
        if self.server is not None:
            await self.server.close()
        if self.session is not None:
            await self.session.close()
        if self.vm is not None:
            self.vm.close()
        if not keep_running:
            for path in (self.place.running_file, self.place.qemu_socket):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    async def abandon(self) -> None:
        """End a QEMU that was started and cannot be used; the guest has not run yet."""
        if self.session is not None and not self.session.closed.is_set():
            with contextlib.suppress(SnaptreeError):
                await asyncio.wait_for(self.session.execute("quit"), QUIT_TIMEOUT_S)
        if self.process is not None:
            try:
                await asyncio.wait_for(self.process.wait(), QUIT_TIMEOUT_S if self.session else 0)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self.let_go(keep_running=False)

    def _on_event(self, event: dict[str, Any]) -> None:
        if self.vm is not None:
            self.vm.on_event(event)
        if self.server is not None:
            self.server.broadcast(event)

    async def _watch(self) -> None:
        while True:
            await self._relay()
            self.words.bound()
            await asyncio.sleep(WATCH_S)

    async def _relay(self) -> None:
        """Show QEMU's words; whoever doesn't read them holds up nothing but them."""
        if self.foreground:
            data = self.words.new()
            if data:
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(asyncio.to_thread(os.write, sys.stderr.fileno(), data), RELAY_TIMEOUT_S)
