"""Taking a VM's lock where its last supervisor is just ending."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.framework.waiting import wait_until

from snaptree.engine.offline_hold import locked
from snaptree.model.errors import VMRuns
from snaptree.places import lock
from snaptree.places.lock import holder, holder_of
from snaptree.places.places import Places, Running, VMPlace
from snaptree.places.process import identify
from snaptree.server import supervisor

SUPERVISOR = """
import ctypes, sys, threading
from pathlib import Path
from snaptree.places.lock import SupervisorLock
lock = SupervisorLock.take(Path(sys.argv[1]))
threading.Thread(target=sys.stdin.read).start()
SYS_EXIT = 60
ctypes.CDLL(None).syscall(SYS_EXIT, 0)  # of this thread alone
"""
"""Its first thread ends, so it is a zombie as one that was killed; the other one holds the lock until it may end."""


@pytest.fixture
def place(tmp_path: Path) -> VMPlace:
    found = Places(tmp_path / "home", tmp_path / "run").vm("dev")
    found.make()
    return found


def _is_held(place: VMPlace) -> bool:
    """Say whether somebody has the lock, without waiting for one that is just ending."""
    with place.lock.open("r+b") as file:
        return holder_of(file.fileno()) is not None


@contextmanager
def ending(place: VMPlace) -> Iterator[tuple[int, Callable[[], None]]]:
    """Run a supervisor that is just ending; yield its pid, and what lets its last thread end."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(place.lock)], stdin=subprocess.PIPE) as dying:
        assert dying.stdin is not None
        wait_until(lambda: identify(dying.pid) is None, "its first thread's end")
        assert _is_held(place)
        place.write_running(Running(None, "", "", dying.pid, False))
        yield dying.pid, dying.stdin.close


def test_a_supervisor_that_is_just_ending_is_waited_for(place: VMPlace) -> None:
    with ending(place) as (_, end), ThreadPoolExecutor(1) as pool:
        taking = pool.submit(supervisor.take_lock, place)
        end()
        taken = taking.result()
    assert holder(place.lock) == "supervisor"
    taken.release()


def test_nor_has_it_a_vm_that_is_stopped(place: VMPlace) -> None:
    def work() -> str:
        with locked(place, wait=False):
            return place.state().state

    with ending(place) as (_, end), ThreadPoolExecutor(2) as pool:
        looking, working = pool.submit(place.state), pool.submit(work)
        end()
        assert [looking.result().state, working.result()] == ["stopped", "stopped"]


def test_one_that_does_not_end_has_the_vm(place: VMPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "DYING_S", 0.0)
    with ending(place) as (pid, _), pytest.raises(VMRuns, match=f"under the supervisor with the pid {pid}"):
        supervisor.take_lock(place)


def test_one_that_runs_has_the_vm_at_once(place: VMPlace) -> None:
    taken = supervisor.take_lock(place)
    place.write_running(Running(None, "", "", os.getpid(), False))
    with pytest.raises(VMRuns, match=f"under the supervisor with the pid {os.getpid()}"):
        supervisor.take_lock(place)
    taken.release()
