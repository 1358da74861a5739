"""A home of its own for every test, and a stand-in for the supervisor at the other end of the client."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from snaptree.cli.main import main
from snaptree.model.ids import NIL
from snaptree.model.snapshot import SnapshotJSON
from snaptree.places.lock import SupervisorLock
from snaptree.places.places import Places, Running, VMPlace
from snaptree.places.process import identify

Answer = object | Callable[[Mapping[str, Any]], object]


class FakeClient:
    """Answers from a table; an answer that is an exception is raised, one that is a function is called."""

    def __init__(self, answers: Mapping[str, Answer], events: list[dict[str, Any]]) -> None:
        self.answers = dict(answers)
        self.events = events
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.vanish: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> object:
        self.asked.append((command, arguments or {}))
        answer = self.answers[command]
        if isinstance(answer, BaseException):
            raise answer
        return answer(arguments or {}) if callable(answer) else answer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNAPTREE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def supervised(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeClient]]:
    """Make a VM that this process supervises, as far as its places tell; its socket leads to the answers."""
    locks: list[SupervisorLock] = []

    def make(
        answers: Mapping[str, Answer], events: list[dict[str, Any]] | None = None, name: str = "dev"
    ) -> FakeClient:
        place = Places.from_environ().vm(name)
        place.make()
        lock = SupervisorLock.take(place.lock)
        assert lock is not None
        locks.append(lock)
        socket = str(place.runtime / "qmp.sock")
        place.write_running(Running(identify(os.getpid()), "unix:/q", socket, os.getpid(), False))
        client = FakeClient(answers, events or [])

        def vanish() -> None:
            locks.remove(lock)
            lock.release()
            place.running_file.unlink()

        client.vanish = vanish
        fake = SimpleNamespace(Client=SimpleNamespace(connect=lambda path, timeout: client))
        monkeypatch.setitem(sys.modules, "snaptree.cli.client", fake)
        return client

    yield make
    for lock in locks:
        lock.release()


@pytest.fixture
def stopped_vm(home: Path) -> VMPlace:
    place = Places.from_environ().vm("dev")
    place.make()
    return place


@pytest.fixture
def snaptree(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command line in this process."""

    def run(*words: str) -> SimpleNamespace:
        code = main(words)
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def snapshot() -> Callable[..., SnapshotJSON]:
    """Make a snapshot with the id ``number`` and the parent ``parent`` (0: none)."""

    def make(number: int, parent: int = 0, **members: Any) -> SnapshotJSON:
        value: Any = {
            "name": f"s{number}",
            "id": uuid_of(number),
            "parent_name": f"s{parent}" if parent else "",
            "parent_id": uuid_of(parent),
            "date": 20260102030405,
            "created": "2026-01-02T03:04:05.678Z",
            "vm_clock": 3_723_456_000_000,
            "description": "",
            "current": False,
            "consistent": True,
            "memory": "full",
            "vm_state_size": 110_000_000,
            "automatic": False,
            "devices": [
                {"device": "vda", "node": "#block1", "file": "/a.qcow2", "present": True, "size": 1 << 30},
                {"device": "vdb", "node": "#block2", "file": "/b.qcow2", "present": True, "size": 2 << 30},
            ],
            **members,
        }
        result: SnapshotJSON = value
        return result

    return make


def uuid_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000" if number else NIL
