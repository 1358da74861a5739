"""A VM under care: what its operations share.  Not for: the operations, which are functions in their own files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..catalog import lineage
from ..catalog.catalog import Catalog
from ..catalog.history import Entry
from ..model.errors import Busy, QEMUGone
from ..model.ids import NIL
from ..model.reason import Reason
from ..model.snapshot import Device
from ..places.places import VMPlace
from ..qemu.blockdevs import BlockDevice
from ..qemu.facts import Facts
from ..qemu.launch import Process
from ..qemu.session import Event, Session
from . import trace
from .diskthread import DiskThread
from .known import KnownFacts
from .moments import ClockSeen, Stands
from .presence import Table
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from ..memory.store import PageStore
    from .paged import PagedRAM

P = ParamSpec("P")
T = TypeVar("T")

HARMLESS_EVENTS = frozenset(
    {"STOP", "RESUME", "JOB_STATUS_CHANGE", "RTC_CHANGE", "RESET", "MIGRATION", "SHUTDOWN", "POWERDOWN", "WAKEUP"}
    | {"SUSPEND", "NIC_RX_FILTER_CHANGED", "BALLOON_CHANGE", "SPICE_CONNECTED", "SPICE_DISCONNECTED"}
    | {"SPICE_INITIALIZED", "VNC_CONNECTED", "VNC_DISCONNECTED", "VNC_INITIALIZED", "VSERPORT_CHANGE", "WATCHDOG"}
)
"""After these the machine and its block nodes are as they were."""
HARMLESS_COMMANDS = frozenset(
    {"stop", "cont", "screendump", "send-key", "input-send-event", "inject-nmi", "system_reset"}
)
"""So after these, and after everything that only asks."""


class VM:
    """One running VM and its catalog.

    :ivar lock: held by the one operation that is under way.
    :ivar gate: open while commands of clients may pass to QEMU; closed while what we
        found out must stay true.
    :ivar busy: the operation under way, for people; empty where there is none.
    :ivar broken: why nothing may continue on the disks as they are (a load that failed half way); empty where all is
        well.
    :ivar has_generation_id: it has a vmgenid device.
    :ivar ram_addresses: of a fork: where its RAM blocks lie in QEMU's address space.
    :ivar paged: the VM's RAM, where its snapshots are taken the pages way.
    :ivar memory_wanted: where the user wants RAM to be kept: "auto", "pages" or "full".
    :ivar memory_why: why RAM could not be put where the pages way needs it when QEMU was started, and what to do about
        it; empty where it could, and where somebody else started QEMU.
    :ivar allow_raw: QEMU's own snapshot commands may pass, because the user insists.
    :ivar attached: the devices as they were when QEMU was last asked, by name.
    :ivar tables: the snapshots in images that can't be read as files here, as QEMU last told, by device.
    :ivar counts_instructions: QEMU runs with -icount, or may do so.
    :ivar clock_seen: the VM's clock at the last create or load; ``None`` where it is not known.
    :ivar stands: where the VM stood still at its last create or load; ``None`` where that is not known.
    :ivar resumed: how often QEMU has continued the VM, and ``stops``: stopped it.
    :ivar stopped_at_s: when it was stopped last, by QEMU's own word, in seconds of the host's real time.
    :ivar warm: a snapshot's RAM was loaded into this QEMU.
    :ivar mend: finishes or undoes what the journal holds from an operation that failed at its end.
    :ivar publish: called with the name and the data of every event of ours.
    :ivar sole: nobody but us can give commands to this QEMU: no other monitor of it can be reached.
    """

    def __init__(self, place: VMPlace, catalog: Catalog, session: Session, process: Process | None) -> None:
        self.place = place
        self.catalog = catalog
        self.session = session
        self.process = process
        self.lock = asyncio.Lock()
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = ""
        self.broken = ""
        self.allow_raw = False
        self.memory_wanted = "auto"
        self.memory_why = ""
        self.paged: PagedRAM | None = None
        self.has_generation_id = False
        self.ram_addresses: dict[str, int] = {}
        self._store: PageStore | None = None
        self.run_state = "running"
        self.resumed = 0
        self.stops = 0
        self.stopped_at_s = 0.0
        self.warm = False
        self.mend: Callable[[], Awaitable[object]] | None = None
        self.attached: dict[str, Device] = {}
        self.tables: dict[str, Table] = {}
        self.publish: Callable[[str, dict[str, Any]], None] = lambda name, data: None
        self.counts_instructions = False
        self.clock_seen: ClockSeen | None = None
        self.stands: Stands | None = None
        self.sole = False
        self._facts = KnownFacts(session, process)
        self._disk = DiskThread()

    def disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin ``work``, which may block on the disk, outside the event loop; its end is to be awaited."""
        return self._disk.run(work, *args, **kwargs)

    def disk_soon(self, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let ``work`` be done in the thread of :meth:`disk`, as :meth:`.diskthread.DiskThread.soon`."""
        self._disk.soon(what, work, *args, **kwargs)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Let nobody but us talk to QEMU: what was found out stays true until it is used.  May be nested."""
        outermost = self.gate.is_set()
        self.gate.clear()
        try:
            yield
        finally:
            if outermost:
                self.gate.set()

    def files(self) -> list[str]:
        """Return the images of the devices as they were when QEMU was last asked."""
        return [device.file for device in self.attached.values()]

    def store(self) -> PageStore:
        """Return the VM's page store; opened, which removes what a crash left in it, and made, when first asked for.

        :raises PageStoreError: where it can't be.
        """
        if self._store is None:
            from ..memory.store import PageStore  # noqa: PLC0415  numpy takes 100 ms

            self._store = PageStore.open(self.place.pages, clean=True, trace=trace.point)
        return self._store

    async def facts(self) -> Facts:
        """Ask QEMU about everything that decides whether a snapshot can be taken or loaded now."""
        before = self.stops, self.resumed
        facts = await self._facts.now(keep=self.sole)
        if before == (self.stops, self.resumed):  # else an event is newer
            self.run_state = facts.run_state
        if self.paged is not None:
            self.paged.holes = bool(facts.punching)
            self.paged.others_fault = facts.static.kvm
        self.has_generation_id = any(device.endswith("vmgenid") for device in facts.machine.devices)
        self.counts_instructions = facts.host.icount or facts.host.pid == 0
        self.attached = {d.device: Device(d.device, d.node, d.file, d.size) for d in facts.devices}
        self.tables = _told(facts.devices)
        return facts

    async def facts_for(self, against: Callable[[Facts], tuple[Reason, ...]]) -> tuple[Facts, tuple[Reason, ...]]:
        """Return what decides about an operation, and the reasons against it.

        Where all that is known says that nothing is against it, QEMU is not asked: it answers a running VM's questions
        late, and is asked in the pause, before anything is touched (:attr:`.pause.Pause.facts`).  A refusal is always
        of this moment.
        """
        facts = await asyncio.to_thread(self.facts_expected)
        if facts is not None and not against(facts):
            return facts, ()
        facts = await self.facts()
        return facts, against(facts)

    def facts_expected(self) -> Facts | None:
        """Return the facts as they must be now; ``None`` where QEMU must be asked.  Not in the event loop."""
        return self._facts.expected() if self.run_state == "running" else None

    async def facts_then(
        self, before: Facts | None, last: Awaitable[object], *behind: Awaitable[object]
    ) -> Facts | None:
        """Do the last thing that the facts are asked for, and ask once more; see :meth:`.known.KnownFacts.then`."""
        return await self._facts.then(before, last, *behind)

    def passed(self, command: str) -> None:
        """Note that a client's command is about to pass to QEMU: it may change the machine or its block nodes."""
        if command not in HARMLESS_COMMANDS and not command.startswith("query-"):
            self.forget_facts()

    def forget_facts(self) -> None:
        """Ask QEMU everything again the next time."""
        self._facts.forget()

    async def devices(self) -> tuple[BlockDevice, ...]:
        """Return the block devices as they are now."""
        devices = await self._facts.devices()
        self.tables = _told(devices)
        return devices

    @asynccontextmanager
    async def operation(self, name: str, *, wait: bool = True) -> AsyncIterator[None]:
        """Be the one operation on the VM.

        :param wait: wait for another to end; else it is refused.
        :raises Busy: where another is under way and ``wait`` is false.
        """
        if self.lock.locked() and not wait:
            raise Busy(
                f"The VM {self.place.name} is busy with a {self.busy}.", "Try again later, or leave out --no-wait."
            )
        async with self.lock:
            self.busy = name
            try:
                left = self.catalog.may_have_journal
                if self.mend is not None and left and await self.disk(self.catalog.journal) is not None:
                    await self.mend()
                yield
            except QEMUGone as error:
                if error.remedy:
                    raise
                name = self.place.name
                remedy = f"`snaptree resume {name}` starts it again; what was cut off is finished or undone first."
                raise QEMUGone(f"QEMU ended during the {name}. {error.message}", remedy) from error
            finally:
                self.busy = ""

    async def append_lineage(self, record: dict[str, Any]) -> None:
        """Append a record to the lineage file, durably."""
        await self.disk(lineage.append, self.place.lineage, time.time_ns(), record)

    async def entry(
        self, action: str, name: str, id: str, client: str, *, clock: Stopwatch, result: str = "ok"
    ) -> Entry:
        """Return an entry of history for what ends now."""
        return await self.disk(self.entry_now, action, name, id, client, clock=clock, result=result)

    def entry_now(self, action: str, name: str, id: str, client: str, *, clock: Stopwatch, result: str = "ok") -> Entry:
        """As :meth:`entry`, in the thread that uses the catalog."""
        now, (current_id, current_name) = time.time_ns(), self._current()
        took, stood = clock.duration_ms(), clock.pause_ms()
        return Entry(now, action, name, id, current_id, current_name, client, took, stood, result)

    def _current(self) -> tuple[str, str]:
        """Return the current snapshot's id and name; the name is empty where there is none or it is unknown."""
        id = self.catalog.current().id
        snapshot = self.catalog.by_id(id) if id not in ("", NIL) else None
        return id, snapshot.name if snapshot else ""

    def on_event(self, event: Event) -> None:
        """Follow QEMU's run state by its events."""
        if event.get("event") not in HARMLESS_EVENTS:
            self.forget_facts()
        match event.get("event"):
            case "RESUME":
                self.resumed += 1
                self.run_state = "running"
            case "STOP":
                self.stops += 1
                when = event.get("timestamp", {})
                self.stopped_at_s = when.get("seconds", 0) + when.get("microseconds", 0) / 1e6
                self.run_state = "paused"
            case "SHUTDOWN":
                self.run_state = "shutdown"
            case "GUEST_PANICKED":
                self.run_state = "guest-panicked"

    def require_qemu(self) -> None:
        """:raises QEMUGone: where QEMU has ended."""
        if self.session.closed.is_set():
            raise QEMUGone(
                f"QEMU of the VM {self.place.name} has ended.", f"`snaptree resume {self.place.name}` starts it again."
            )

    def close(self) -> None:
        """Let go of RAM, and close catalog and page store."""
        if self.paged is not None:
            self.paged.ram.close()
        if self._store is not None:
            self._store.close()
        self._disk.close(self.catalog.close)


def _told(devices: tuple[BlockDevice, ...]) -> dict[str, Table]:
    """Return the snapshots in images that can't be read as files here, by device."""
    return {device.device: device.snapshots for device in devices if not device.file.startswith("/")}
