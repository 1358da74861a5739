"""Recorded answers of real QEMUs, played back.

Each file in ``answers/`` holds one VM: its command line, and what QEMU answered to everything that gather() asks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snaptree.model.errors import QEMUFailed
from snaptree.qemu.blockdevs import BlockDevice, block_devices
from snaptree.qemu.blockgraph import Graph, parse_graph
from snaptree.qemu.facts import Facts, gather
from snaptree.qemu.host import Host

ANSWERS = Path(__file__).parent / "answers"


@dataclass(frozen=True)
class Recorded:
    """One recorded VM."""

    answers: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, name: str) -> Recorded:
        document = json.loads((ANSWERS / f"{name}.json").read_text(encoding="utf-8"))
        return cls({_key(a["execute"], a.get("arguments")): a for a in document["answers"]})

    async def query(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == "query-memdev" and _key(command, arguments) not in self.answers:
            return []  # these VMs have no memory backends
        answer = self.answers[_key(command, arguments)]
        if "error" in answer:
            raise QEMUFailed(f"QEMU's answer to {command}: {answer['error']['desc']}.")
        return answer["return"]

    def value(self, command: str, **arguments: object) -> Any:
        return self.answers[_key(command, arguments or None)]["return"]

    @property
    def graph(self) -> Graph:
        return parse_graph(self.value("query-named-block-nodes", flat=True), self.value("x-debug-query-block-graph"))

    def devices(self, host: Host | None = None) -> dict[str, BlockDevice]:
        found = block_devices(self.value("query-block"), self.graph, host or Host(cwd="/vm"))
        return {device.device: device for device in found}

    def facts(self) -> Facts:
        return asyncio.run(gather(self.query, static=None, pid=None))


def _key(command: str, arguments: Mapping[str, object] | None) -> str:
    return json.dumps([command, arguments or {}], sort_keys=True)


@pytest.fixture
def recorded() -> Callable[[str], Recorded]:
    return Recorded.read


def all_recorded() -> list[str]:
    return sorted(path.stem for path in ANSWERS.glob("*.json"))


@pytest.fixture(params=all_recorded())
def every_recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded.read(request.param)
