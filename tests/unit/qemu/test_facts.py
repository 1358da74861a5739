from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from snaptree.model.errors import QEMUFailed, QEMUGone
from snaptree.qemu.facts import StaticFacts, gather, gather_devices, gather_static
from snaptree.qemu.host import Host

if TYPE_CHECKING:
    from .conftest import Recorded

    Open = Callable[[str], Recorded]


def test_every_recorded_vm_is_understood(every_recorded: Recorded) -> None:
    facts = every_recorded.facts()
    assert facts.static.version >= (7, 2, 0)
    assert facts.machine.machine


def test_static_facts_are_not_asked_again(recorded: Open) -> None:
    it = recorded("drives")
    static = asyncio.run(gather_static(it.query))
    asked = []

    async def query(command: str, arguments: Mapping[str, object] | None = None) -> Any:
        asked.append(command)
        return await it.query(command, arguments)

    facts = asyncio.run(gather(query, static=static, pid=None))
    assert facts.static is static
    assert "query-version" not in asked
    assert "qom-get" not in asked


def test_static_facts_of_the_time_before_the_machine_are_asked_again(recorded: Open) -> None:
    early = asyncio.run(gather_static(recorded("preconfig").query))
    assert early.cpu == ""
    facts = asyncio.run(gather(recorded("drives").query, static=early, pid=None))
    assert facts.machine.cpu.startswith("qemu64")


def test_preconfig_is_told_from_prelaunch(recorded: Open) -> None:
    assert recorded("preconfig").value("query-status")["status"] == "prelaunch"
    assert recorded("preconfig").facts().run_state == "preconfig"
    assert recorded("drives").facts().run_state == "prelaunch"


def test_a_running_job_is_a_block_job_and_nothing_else(recorded: Open) -> None:
    facts = recorded("mirror").facts()
    assert [(job.id, job.kind) for job in facts.block_jobs] == [("copy", "mirror")]
    assert facts.jobs == ()


def test_only_capabilities_that_are_on_are_told(recorded: Open) -> None:
    assert recorded("capabilities").facts().capabilities == {"multifd", "x-ignore-shared", "xbzrle"}
    assert recorded("drives").facts().capabilities == set()


def test_what_blocks_a_migration_is_told(recorded: Open) -> None:
    (why,) = recorded("blocked").facts().blocked
    assert "nvme" in why


def test_a_corrupt_image_hides_all_nodes_and_is_named(recorded: Open) -> None:
    facts = recorded("closed-as-corrupt").facts()
    assert facts.devices == ()
    assert facts.closed == ("sys",)
    assert "ejected" in facts.nodes_error


@pytest.mark.parametrize(
    "missing", ["query-jobs", "query-pci", "query-memory-size-summary", "query-kvm", "query-migrate-capabilities"]
)
def test_a_command_that_qemu_lacks_is_tolerated(recorded: Open, missing: str) -> None:
    it = recorded("drives")

    async def query(command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == missing:
            raise QEMUFailed(f"The command {command} has not been found.")
        return await it.query(command, arguments)

    facts = asyncio.run(gather(query, static=None, pid=None))
    assert [device.device for device in facts.devices] == ["virtio0", "virtio1"]


@pytest.mark.parametrize("at", ["query-block", "query-named-block-nodes", "query-jobs", "query-status"])
def test_a_qemu_that_ends_is_not_taken_for_one_that_lacks_a_command(recorded: Open, at: str) -> None:
    it = recorded("drives")

    async def query(command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == at:
            raise QEMUGone("QEMU ended.")
        return await it.query(command, arguments)

    with pytest.raises(QEMUGone):
        asyncio.run(gather(query, static=None, pid=None))


def test_the_devices_alone_are_the_same_or_an_error_never_none_at_all(every_recorded: Recorded) -> None:
    facts = every_recorded.facts()
    if facts.nodes_error:
        with pytest.raises(QEMUFailed):
            asyncio.run(gather_devices(every_recorded.query, pid=None))
    else:
        assert asyncio.run(gather_devices(every_recorded.query, pid=None)) == facts.devices


@pytest.mark.parametrize(("state", "expected"), [("shutdown", True), ("suspended", True), ("guest-panicked", False)])
def test_a_reset_is_asked_for_where_cont_would_not_work(recorded: Open, state: str, expected: bool) -> None:
    assert replace(recorded("drives").facts(), run_state=state).reset_before_load is expected


@pytest.mark.parametrize(("used", "expected_mib"), [(0, 64), (10 * 1024**2, 10), (1024**3, 64)])
def test_a_vm_state_takes_no_more_than_ram_and_no_more_than_qemu_uses(
    recorded: Open, used: int, expected_mib: int
) -> None:
    facts = replace(recorded("drives").facts(), host=Host(ram_used_bytes=used))
    assert facts.vm_state_max_bytes == expected_mib * 1024**2


def test_nothing_static_is_known_of_a_bare_qemu() -> None:
    assert StaticFacts() == StaticFacts((0, 0, 0), "", "", False)
