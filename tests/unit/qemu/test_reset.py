from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from snaptree.model.errors import QEMUFailed
from snaptree.qemu.reset import reset_for_load


class Machine:
    """Resets ``delay`` queries after the command."""

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.done: list[tuple[str, object]] = []

    async def query(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command != "query-status":
            self.done.append((command, dict(arguments or {})))
            return {}
        self.delay -= 1
        return {"status": "shutdown" if self.delay >= 0 else "prelaunch", "running": False}


@pytest.mark.parametrize("delay", [0, 1, 5])
def test_it_waits_until_the_vm_is_reset(delay: int) -> None:
    vm = Machine(delay)
    asyncio.run(reset_for_load(vm.query, no_reboot=False))
    assert vm.done == [("set-action", {"reboot": "reset"}), ("system_reset", {})]


def test_no_reboot_is_as_before_afterwards() -> None:
    vm = Machine(0)
    asyncio.run(reset_for_load(vm.query, no_reboot=True))
    assert vm.done[-1] == ("set-action", {"reboot": "shutdown"})


def test_a_vm_that_does_not_reset_is_an_error_and_no_reboot_is_back() -> None:
    vm = Machine(10**6)
    with pytest.raises(QEMUFailed, match="did not reset"):
        asyncio.run(reset_for_load(vm.query, no_reboot=True))
    assert vm.done[-1] == ("set-action", {"reboot": "shutdown"})
