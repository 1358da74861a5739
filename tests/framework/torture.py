"""Everything that can be done with a VM, at random, while supervisor and QEMU die at random points of it.

Not for: one rule.  After each death the VM is taken up again, and then: every snapshot that was reported as created is
listed as whole, is loaded, and its RAM is compared page by page with what it was; the guest, which checks RAM against
its disks, finds no fault; and ``snaptree check`` finds no damage.
"""

from __future__ import annotations

import json
import os
import random
import signal
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import faults, ram, warm
from .faults import FAULTS, KILLS, Fault
from .guests import find_trouble
from .qmp import QMPClient, QMPError
from .torture_points import RUNNING, STOPPED, Point
from .vm import TestVM

NIL = "00000000-0000-0000-0000-000000000000"
MEMORY_MIB = 32
SNAPSHOTS_MAX = 10
STOPPED_SHARE = 0.2
AT_ONCE = 3
"""So many snapshots are loaded after each fault; at the end it is all."""

Digests = dict[str, "array[int]"]


@dataclass
class Known:
    """A snapshot that was reported as created.

    :ivar digests: of each page of its RAM, where they are known already.
    :ivar heads: what the disks held, where that is known: of snapshots without RAM.
    """

    name: str
    parent: str
    memory: str
    automatic: bool = False
    digests: Digests | None = None
    heads: list[str] | None = None


@dataclass
class Maybe:
    """What an operation that was cut off may have done.

    :ivar created: the name of the new snapshot, and what of it is known.
    :ivar gone: the ids that may be gone.
    :ivar names: other names that snapshots may have, by id.
    """

    created: Known | None = None
    gone: frozenset[str] = frozenset()
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class Figures:
    """What was done.

    :ivar faults: how often each fault struck, by kind.
    :ivar points: how often a fault struck at each point.
    :ivar at_stake: the snapshots that were there at each fault, all together.
    """

    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    at_stake: int = 0
    created: int = 0
    loads: int = 0
    pages: int = 0
    checks: int = 0
    lost: int = 0

    @property
    def kills(self) -> int:
        """How many faults ended a process."""
        return sum(count for fault, count in self.faults.items() if fault != "stall")

    def add(self, other: Figures) -> None:
        """Count on."""
        self.faults += other.faults
        self.points += other.points
        for name in ("at_stake", "created", "loads", "pages", "checks", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Died(Exception):
    """A process was killed in the middle of what was asked."""


class Torture:
    """The torture of one VM.

    :ivar figures: what was done.
    """

    def __init__(self, vm: TestVM, seed: int, *, way: str, cache: str = "writeback") -> None:
        self.vm = vm
        self.seed = seed
        self.way = way
        self.random = random.Random(seed)
        self.figures = Figures()
        self.known: dict[str, Known] = {}
        self.directory = vm.home / "vms" / vm.name
        self._args = vm.qemu_args(memory_mib=MEMORY_MIB, cache=cache)
        self._client: QMPClient | None = None
        self._fault: Fault = "supervisor"
        self._points = [point for point in RUNNING if way == "pages" or not point.pages]
        self._point = self._points[0]
        self._armed: Point | None = None
        self._passes = 0
        self._number = 0
        self._story: list[str] = []

    # The walk

    def run(self, kills: int) -> None:
        """Go on until so many processes were killed, and look at everything at the end."""
        try:
            self._start()
            while self.figures.kills < kills:
                self._round()
            self._start()
            self._verify(list(self.known))
        except BaseException as error:
            error.add_note(f"torture with the seed {self.seed}, after {self.figures.kills} kills; last: ")
            error.add_note("\n".join(self._story[-25:]))
            raise

    def _round(self) -> None:
        self._number += 1
        if self.random.random() < STOPPED_SHARE:
            self._stop()
            self._stopped_round(self.random.choice(STOPPED))
        self._start()
        self._verify(self._some())
        point, before = self._arm(), self.figures.kills
        for _ in range(3):
            if self.figures.kills > before or self._client is None:
                return
            self._operate(self.random.choice(point.operations))
        if self.figures.kills == before:
            # It never came by there, or nothing was killed: any moment will do.
            self._operate(self.random.choice(point.operations), at_once=True)

    def _arm(self) -> Point:
        """From now on the supervisor is struck where it was started to be."""
        self._armed = self._point
        return self._point

    def _some(self) -> list[str]:
        """Return the newest snapshot, and some others."""
        ids = list(self.known)
        return list(dict.fromkeys([*ids[-1:], *self.random.sample(ids, min(len(ids), AT_ONCE - 1))]))

    # A VM that runs

    def _operate(self, operation: str, *, at_once: bool = False) -> None:
        """Do something; what comes of it is looked at afterwards."""
        with_ram = [id for id, known in self.known.items() if known.memory != "none"]
        if operation != "create" and not with_ram:
            operation = "create"
        if operation == "create" and len(self.known) >= SNAPSHOTS_MAX:
            operation = "delete"
        maybe = Maybe()
        try:
            match operation:
                case "create":
                    self._create(maybe, at_once)
                case "load":
                    id = self.random.choice(with_ram)
                    self._tell(f"load {self.known[id].name}")
                    self._execute("snapshot-load", {"id": id}, at_once=at_once)
                case "delete":
                    self._delete(maybe, self.random.choice(list(self.known)), at_once)
                case "rename":
                    id = self.random.choice(list(self.known))
                    maybe.names[id] = f"r{self._number}"
                    self._tell(f"rename {self.known[id].name} {maybe.names[id]}")
                    self._execute("snapshot-rename", {"id": id, "new-name": maybe.names[id]}, at_once=at_once)
                    self.known[id].name = maybe.names[id]
                case "undo":
                    self._tell("undo")
                    self._undo(at_once)
        except Died:
            self._start()
        self._reconcile(maybe)
        self._cont()

    def _create(self, maybe: Maybe, at_once: bool) -> None:
        name = f"s{self._number}-{self.figures.created}"
        digests = None
        if self.random.random() < 0.7:
            self._execute("stop")
            digests = self._digests()
        maybe.created = Known(name, "", self.way, digests=digests)
        self._tell(f"create {name}")
        self._execute("snapshot-create", {"name": name}, at_once=at_once)
        self._reconcile(maybe)
        assert name in {known.name for known in self.known.values()}, f"{name} was reported as created"
        if digests is not None:
            self._compare(name, digests)

    def _delete(self, maybe: Maybe, id: str, at_once: bool) -> None:
        children = self.random.random() < 0.2
        maybe.gone = frozenset(self._below(id) if children else {id})
        self._tell(f"delete {self.known[id].name}{' and below' if children else ''}")
        self._execute("snapshot-delete", {"id": id, "children": children}, at_once=at_once)
        self._reconcile(maybe)
        assert not maybe.gone & self.known.keys()

    def _below(self, id: str) -> set[str]:
        """Return a snapshot and all that descend from it."""
        found = {id}
        while more := {child for child, known in self.known.items() if known.parent in found} - found:
            found |= more
        return found

    def _undo(self, at_once: bool) -> None:
        try:
            self._execute("snapshot-undo", at_once=at_once)
        except QMPError as error:
            self._tell(f"undo: {error.desc}")

    def _execute(self, command: str, arguments: dict[str, Any] | None = None, *, at_once: bool = False) -> Any:
        """Ask the supervisor, and strike where it is stopped at a point.

        :raises Died: where a process was killed meanwhile.
        """
        assert self._client is not None
        supervisor = self._supervisor()
        number = self._client.send(command, arguments)
        if at_once:
            self._tell(f"kill at any moment of {command}")
            for _ in range(self.random.randrange(60)):
                faults.poll(self._client.fileno())
                if faults.state_of(supervisor) == "T":
                    os.kill(supervisor, signal.SIGCONT)
                if self._client.has_reply(number):
                    break
            self._strike(supervisor, "any moment")
        while True:
            try:
                if self._client.has_reply(number):
                    return self._client.reply(command, number)
            except AssertionError as error:
                raise AssertionError(f"{command}: the supervisor ended by itself") from error
            if faults.state_of(supervisor) == "T":
                self._stopped(supervisor)
            else:
                faults.poll(self._client.fileno())

    def _stopped(self, supervisor: int) -> None:
        """Strike, or let it pass."""
        if self._armed is None or self._passes > 0:
            self._passes -= 1
            os.kill(supervisor, signal.SIGCONT)
            return
        point, self._armed = self._armed, None
        if self._fault == "stall":
            self._stall(supervisor, point)
        else:
            self._strike(supervisor, point.name)

    def _strike(self, supervisor: int, where: str) -> None:
        """:raises Died: always."""
        fault: Fault = self._fault if self._fault in KILLS else "supervisor"
        self._count(fault, where)
        self._armed = None
        if self._client is not None:
            self._client.close()
            self._client = None
        if where == "any moment" and fault == "qemu":
            fault = "both"
        faults.strike(fault, supervisor, self._qemu())
        raise Died

    def _stall(self, supervisor: int, point: Point) -> None:
        """Let QEMU be stopped while the supervisor goes on: who only reads is answered."""
        qemu = self._qemu()
        self._count("stall", point.name)
        if qemu is None:
            os.kill(supervisor, signal.SIGCONT)
            return
        os.kill(qemu, signal.SIGSTOP)
        try:
            os.kill(supervisor, signal.SIGCONT)
            if self._client is not None:
                with self.vm.qmp() as other:
                    number = other.send("query-snapshots")
                    while not other.has_reply(number):
                        if faults.state_of(supervisor) == "T":
                            os.kill(supervisor, signal.SIGCONT)
                        faults.poll(other.fileno())
                    assert len(other.reply("query-snapshots", number)) >= 0
        finally:
            os.kill(qemu, signal.SIGCONT)

    def _count(self, fault: Fault, where: str) -> None:
        self.figures.faults[fault] += 1
        self.figures.points[where] += 1
        self.figures.at_stake += len(self.known)
        self._tell(f"    {fault} at {where}")

    def _start(self, *, quietly: bool = False) -> None:
        """Let a supervisor look after the VM, by ``attach`` or ``run``; where one dies in that, again.

        It is stopped at one point, chosen anew; whether it is struck there depends on :meth:`_arm`.

        :param quietly: it is not struck while it starts.
        """
        if self._client is not None:
            return
        self._point = self.random.choice(self._points)
        self._fault = self.random.choice(FAULTS)
        self._passes = self.random.choice((0, 0, 0, 1, 2))
        self._armed = None if quietly else self._point
        words = ["attach", "--detach", self.vm.name]
        if self._qemu() is None:
            memory = ("--memory", "full") if self.way == "full" else ()
            words = ["run", "--detach", *memory, self.vm.name, "--", *self._args]
        self._tell(f"{words[0]} ({self._point.name})")
        died, code, said = self._command(*words, trace=f"{self._point.name}=stop")
        self._armed = None
        if died:
            self._start(quietly=True)
            return
        assert code == 0, f"{words[0]}: exit code {code}: {said}"
        self._client = self.vm.qmp()
        self._cont()

    def _command(self, *words: str, trace: str = "") -> tuple[bool, int, str]:
        """Run a command, and strike where the supervisor is stopped meanwhile.

        :return: whether a process was killed; the exit code; what it said.
        """
        env = {**self.vm.env, **({"SNAPTREE_TRACE": trace} if trace else {})}
        died = False
        with (
            (self.vm.root / "command.log").open("w+") as log,
            warm.Process(words, env, self.vm.root, log, log) as process,
        ):
            while (status := process.poll()) is None:
                faults.poll()
                supervisor = faults.supervisor_of(self.directory)
                if supervisor is not None and faults.state_of(supervisor) == "T":
                    try:
                        self._stopped(supervisor)
                    except Died:
                        died = True
            log.seek(0)
            return died, status, log.read()

    def _cont(self) -> None:
        if self._client is None:
            return
        status = self._execute("query-snapshot-status", {"reasons": True})
        assert status["ready"], status
        if self._execute("query-status")["status"] != "running":
            self._execute("cont")

    def _supervisor(self) -> int:
        found = faults.supervisor_of(self.directory)
        assert found is not None, "nobody supervises the VM"
        return found

    def _qemu(self) -> int | None:
        """Return QEMU's pid; ``None`` where it doesn't run."""
        try:
            pid = json.loads((self.directory / "running.json").read_text())["qemu_pid"]
        except (OSError, ValueError):
            return None
        marked = f"SNAPTREE_TEST_VM={self.vm.root}".encode()
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return None
        return int(pid) if marked in environ and faults.state_of(pid) not in "ZX" else None

    # Looking

    def _reconcile(self, maybe: Maybe) -> None:
        """Compare the list with what is known, and learn what an operation that was cut off has done."""
        if self._client is not None:
            listed = self._execute("query-snapshots", {"foreign": True})
        else:
            listed = self.vm.cli_json("list", self.vm.name, "--foreign")
        strange = [s["name"] for s in listed if s.get("foreign")]
        assert strange == [], f"left behind: {strange}"
        found = {s["id"]: s for s in listed}
        for id in list(self.known):
            if id not in found:
                known = self.known.pop(id)
                lost = id not in maybe.gone and not known.automatic
                self.figures.lost += lost
                assert not lost, f"{known.name} was reported as created, and is lost"
                for other in self.known.values():
                    if other.parent == id:
                        other.parent = known.parent
        for id, snapshot in found.items():
            assert snapshot["consistent"], f"not whole: {snapshot}"
            if id not in self.known:
                self._meet(snapshot, maybe)
            known = self.known[id]
            assert snapshot["name"] in (known.name, maybe.names.get(id)), snapshot
            assert snapshot["memory"] == known.memory, snapshot
            known.name = snapshot["name"]
        wrong = {s["name"]: s["parent_id"] for s in listed if s["parent_id"] != self.known[s["id"]].parent}
        assert wrong == {}, f"of another parent than {[self.known[s].parent for s in found]}: {wrong}"

    def _meet(self, snapshot: dict[str, Any], maybe: Maybe) -> None:
        new = maybe.created
        if new is not None and snapshot["name"] == new.name:
            known = new
        else:
            assert snapshot["automatic"], f"nobody has created {snapshot}"
            known = Known(snapshot["name"], "", snapshot["memory"], automatic=True)
        known.parent, known.memory = snapshot["parent_id"], snapshot["memory"]
        self.known[snapshot["id"]] = known
        self.figures.created += 1

    def _verify(self, ids: list[str]) -> None:
        """Load these snapshots, compare all of their RAM, let the guest go on from each; check everything."""
        assert self._client is not None
        for id in ids:
            known = self.known.get(id)
            if known is None or known.memory == "none":
                continue
            self._execute("stop")
            since = self.vm.serial_end()
            self._execute("snapshot-load", {"id": id, "keep": False})
            found = self._digests()
            if known.digests is None:
                known.digests = found
            self._compare(known.name, known.digests, found)
            self.figures.loads += 1
            self._execute("cont")
            self.vm.wait_states(2, since)
            trouble = find_trouble(self.vm.serial(since))
            assert trouble is None, f"{known.name}: {trouble}"
            self._reconcile(Maybe())
        self._check()

    def _check(self) -> None:
        done = self.vm.cli("check", "--json", self.vm.name, check=False)
        damage = [f for f in json.loads(done.stdout)["findings"] if f["kind"] == "damage"]
        assert (done.returncode, damage) == (0, []), done.stdout
        self.figures.checks += 1

    def _compare(self, name: str, before: Digests, found: Digests | None = None) -> None:
        found = self._digests() if found is None else found
        wrong = ram.differing(before, found)
        assert wrong == [], f"{len(wrong)} pages of {name} are not as they were: {wrong[:20]}"
        self.figures.pages += sum(map(len, before.values()))

    def _digests(self) -> Digests:
        """Return the digests of all RAM; the VM stands still."""
        if self.way == "pages":
            qemu = self._qemu()
            assert qemu is not None
            return ram.digests(qemu)
        assert self._client is not None
        path = self.vm.root / "ram.bin"
        self._execute("pmemsave", {"val": 0, "size": MEMORY_MIB << 20, "filename": str(path)})
        return {"ram": ram.of_file(path)}

    # A VM that doesn't run

    def _stop(self) -> None:
        if self._client is None and self._qemu() is not None:
            self._start(quietly=True)
        if self._client is not None:
            self._tell("stop")
            self._client.close()
            self._client = None
            died, code, said = self._command("stop", self.vm.name)
            if died and self._qemu() is not None:
                self._stop()
            assert died or code == 0, f"stop: exit code {code}: {said}"

    def _stopped_round(self, point: Point) -> None:
        """Do something on the images, and kill it at a point; then look."""
        operation = self.random.choice(point.operations)
        self._settle()
        maybe = Maybe()
        # The stop, which kept the present, may have deleted an automatic one that was too many.
        stays = [id for id, known in self.known.items() if not known.automatic]
        if not stays and operation in ("load", "delete"):
            operation = "create"
        if operation == "create" and stays and len(self.known) >= SNAPSHOTS_MAX:
            operation = "delete"
        id = self.random.choice(stays) if stays else ""
        name = f"o{self._number}-{self.figures.created}"
        words: list[str]
        match operation:
            case "create":
                maybe.created = Known(name, "", "none", heads=self._heads())
                words = ["create", self.vm.name, name]
            case "load":
                words = ["load", self.vm.name, "--id", id]
            case "adopt":
                for disk in self.vm.disks:
                    self.vm.tool("qemu-img", "snapshot", "-c", f"theirs-{name}", str(disk))
                maybe.created = Known(name, "", "none", heads=self._heads())
                words = ["adopt", self.vm.name, f"theirs-{name}", "--as", name]
            case "repair":
                for suffix in ("", "-wal", "-shm"):
                    (self.directory / f"catalog.sqlite{suffix}").unlink(missing_ok=True)
                words = ["repair", "--yes", self.vm.name]
            case _:
                maybe.gone = frozenset({id})
                words = ["delete", self.vm.name, "--id", id]
        self._tell(f"{' '.join(words)} (stopped)")
        self.vm.env["SNAPTREE_TRACE"] = f"{point.name}=kill"
        try:
            done = self.vm.cli(*words, check=False)
        finally:
            del self.vm.env["SNAPTREE_TRACE"]
        if done.returncode == -signal.SIGKILL:
            self._count("supervisor", point.name)
            if self.random.random() < 0.3:
                self._tell("run, and stop")
                if operation != "repair":
                    self._start(quietly=True)
                    self._stop()
            self._settle()
        else:
            assert done.returncode == 0, f"{words}: exit code {done.returncode}: {done.stdout}{done.stderr}"
        if operation == "adopt" and name not in {s["name"] for s in self.vm.cli_json("list", self.vm.name)}:
            for disk in self.vm.disks:
                self.vm.tool("qemu-img", "snapshot", "-d", f"theirs-{name}", str(disk))
        self._reconcile(maybe)
        self._verify_disks()

    def _settle(self) -> None:
        """Let a repair finish or undo what is cut off."""
        self.vm.cli("repair", "--yes", self.vm.name)

    def _verify_disks(self) -> None:
        """Load a snapshot without RAM, where there is one, and compare its disks."""
        cold = [id for id, known in self.known.items() if known.heads is not None]
        if cold:
            id = self.random.choice(cold)
            self.vm.cli("load", self.vm.name, "--id", id)
            self._reconcile(Maybe())
            assert self._heads() == self.known[id].heads, f"the disks of {self.known[id].name} are not as they were"
            self.figures.loads += 1
        self._check()

    def _heads(self) -> list[str]:
        """Return what the disks hold where the guest writes."""
        words = ("qemu-io", "-f", "qcow2", "-r", "-c", "read -v 0 1024")
        return [self.vm.tool(*words, str(disk)).stdout.rpartition("read 1024")[0] for disk in self.vm.disks]

    def _tell(self, what: str) -> None:
        self._story.append(what)
