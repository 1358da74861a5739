"""A random walk of a guest through its snapshots, with all of its RAM compared after each load.  Not for: one rule.

The guest checks RAM against its disks all the time; we compare every page of RAM with what it was when the snapshot was
taken, and the lineage with a model that is a dictionary.
"""

from __future__ import annotations

import os
import random
import select
import signal
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from . import ram
from .vm import TestVM
from .waiting import wait_until

NIL = "00000000-0000-0000-0000-000000000000"


@dataclass
class Known:
    """A snapshot as the model has it."""

    name: str
    parent: str
    digests: dict[str, array[int]]


@dataclass
class Walk:
    """The walk of one VM that runs.

    :ivar done: how often each kind of step was made.
    """

    vm: TestVM
    run_args: list[str]
    seed: int
    known: dict[str, Known] = field(default_factory=dict)
    current: str = NIL
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.client = self.vm.qmp()

    def walk(self, steps: int) -> None:
        """Make so many steps, and look at everything at the end."""
        kinds = ("create", "load", "undo", "delete", "rename", "work", "restart", "kill")
        for number in range(steps):
            (kind,) = self.random.choices(kinds, (28, 30, 6, 9, 4, 16, 3, 4))
            try:
                getattr(self, f"_{kind}")(number)
            except BaseException as error:
                error.add_note(f"step {number} ({kind}) of the walk with the seed {self.seed}; made: {dict(self.done)}")
                raise
            self.done[kind] += 1
        self._check_tree()
        self.vm.assert_guest_ok()

    def _create(self, number: int) -> None:
        name = f"s{number}"
        if stands := self.random.random() < 0.7:
            self.client.execute("stop")
        before = ram.digests(self._qemu()) if stands else {}
        self.client.execute("snapshot-create", {"name": name})
        if stands:
            assert ram.differing(before, ram.digests(self._qemu())) == []
            self.client.execute("cont")
        self.known[id := self._id(name)] = Known(name, self.current, before)
        self.current = id

    def _load(self, number: int) -> None:
        if not self.known:
            return
        id = self.random.choice(list(self.known))
        known = self.known[id]
        runs = self.random.random() < 0.3
        if not runs:
            self.client.execute("stop")
        self.client.execute("snapshot-load", {"name": known.name, "keep": False})
        self.current = id
        if runs:
            self._work(number)
            return
        found = ram.digests(self._qemu())
        if not known.digests:
            known.digests = found  # it was taken while the guest ran; from now on it has to be the same
        wrong = ram.differing(known.digests, found)
        assert wrong == [], f"{len(wrong)} pages of {known.name} are not as they were: {wrong[:20]}"
        self.client.execute("cont")

    def _undo(self, number: int) -> None:
        """Load anything, and undo that; what the load has kept gets a name, and stays."""
        if not self.known:
            return
        self.client.execute("stop")
        before = ram.digests(self._qemu())
        self.client.execute("snapshot-load", {"name": self.random.choice(list(self.known.values())).name, "keep": True})
        self.client.execute("snapshot-undo")
        wrong = ram.differing(before, ram.digests(self._qemu()))
        assert wrong == [], f"{len(wrong)} pages are not as they were before the load: {wrong[:20]}"
        kept = self.client.execute("query-current-snapshot")["name"]
        self.client.execute("snapshot-rename", {"name": kept, "new-name": f"u{number}"})
        self.known[id := self._id(f"u{number}")] = Known(f"u{number}", self.current, before)
        self.current = id
        self.client.execute("cont")

    def _delete(self, number: int) -> None:
        if len(self.known) < 3:
            return
        id = self.random.choice(list(self.known))
        gone = self.known.pop(id)
        self.client.execute("snapshot-delete", {"name": gone.name})
        for other in self.known.values():
            if other.parent == id:
                other.parent = gone.parent
        if self.current == id:
            self.current = gone.parent

    def _rename(self, number: int) -> None:
        if not self.known:
            return
        known = self.random.choice(list(self.known.values()))
        self.client.execute("snapshot-rename", {"name": known.name, "new-name": f"r{number}"})
        known.name = f"r{number}"

    def _work(self, number: int) -> None:
        since = self.vm.serial_end()
        self.vm.wait_states(self.random.randint(1, 3), since)

    def _restart(self, number: int) -> None:
        self._end(self.vm.cli, "stop", "--discard", self.vm.name)
        self.vm.cli("run", "--detach", self.vm.name, "--", *self.run_args)
        self.client = self.vm.qmp()

    def _kill(self, number: int) -> None:
        supervisor = self.client.execute("query-vm")["supervisor_pid"]
        self._end(os.kill, supervisor, signal.SIGKILL)
        self.vm.cli("attach", "--detach", self.vm.name)
        self.client = self.vm.qmp()

    def _end(self, how: Any, *words: Any) -> None:
        """End the supervisor, and wait until it is gone."""
        pidfd = os.pidfd_open(self.client.execute("query-vm")["supervisor_pid"])
        try:
            self.client.close()
            how(*words)
            wait_until(lambda: select.select([pidfd], [], [], 0)[0], "the end of the supervisor")
        finally:
            os.close(pidfd)

    def _check_tree(self) -> None:
        found = {s["id"]: s for s in self.client.execute("query-snapshots")}
        assert {id: (s["name"], s["parent_id"]) for id, s in found.items()} == {
            id: (known.name, known.parent) for id, known in self.known.items()
        }
        assert [s["id"] for s in found.values() if s["current"]] == [self.current] * (self.current != NIL)
        assert all(s["consistent"] and s["memory"] == "pages" for s in found.values())

    def _qemu(self) -> int:
        return int(self.client.execute("query-vm")["qemu_pid"])

    def _id(self, name: str) -> str:
        (id,) = (s["id"] for s in self.client.execute("query-snapshots") if s["name"] == name)
        return str(id)
