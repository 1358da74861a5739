"""What a real QEMU makes of a command of which it has the beginning only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.conftest import VMFactory
from tests.framework.vm import TestVM
from tests.functional.traps.safety import bare, plain_qemu

from snaptree.qemu.jobs import new_job_id, run_job
from snaptree.qemu.session import Session

Use = Callable[[Session], Awaitable[None]]
DEVICES = {"devices": ["disk-a", "disk-b"]}


def use(vm: TestVM, *uses: Use) -> None:
    """Let each use a session of its own, one after the other, to a QEMU that snaptree doesn't run."""

    async def run(address: str) -> None:
        for each in uses:
            session = await Session.connect(address, lambda event: None)
            try:
                await each(session)
            finally:
                await session.close()

    with plain_qemu(vm, bare(vm, disks="blockdev")) as plain:
        asyncio.run(run(f"unix:{plain.attach_socket}"))


def beginning(tag: str) -> dict[str, object]:
    return {"job-id": new_job_id(), "tag": tag, "vmstate": "disk-a"}


async def tags(session: Session) -> list[list[str]]:
    nodes = await session.execute("query-named-block-nodes", {"flat": True})
    return [[s["name"] for s in node["image"].get("snapshots", [])] for node in nodes if node["drv"] == "qcow2"]


def test_qemu_takes_a_command_in_two_pieces(vm_factory: VMFactory) -> None:
    async def save(session: Session) -> None:
        arguments = beginning("t" * 200)
        stopping = session.begin("stop")
        session.read_ahead("snapshot-save", arguments)
        await stopping
        await run_job(session, "snapshot-save", {**arguments, **DEVICES})
        assert await tags(session) == [["t" * 200]] * 2

    use(vm_factory(), save)


@pytest.mark.parametrize("command", ["snapshot-save", "snapshot-load"])
def test_qemu_does_nothing_of_a_command_that_was_read_ahead_and_never_came(vm_factory: VMFactory, command: str) -> None:
    async def ask_for_something_else(session: Session) -> None:
        session.read_ahead(command, beginning("t"))
        assert (await session.execute("query-status"))["running"]
        assert await session.execute("query-jobs") == []
        assert await tags(session) == [[], []]
        session.read_ahead(command, beginning("t"))

    async def come_after_one_who_ended(session: Session) -> None:
        assert (await session.execute("query-status"))["running"]
        assert await session.execute("query-jobs") == []
        await run_job(session, "snapshot-save", {**beginning("u"), **DEVICES})
        assert await tags(session) == [["u"], ["u"]]

    use(vm_factory(), ask_for_something_else, come_after_one_who_ended)
