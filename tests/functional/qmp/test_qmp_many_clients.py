"""Many clients at once: each its own conversation, and none in another's way."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient, QMPError
from tests.framework.waiting import TIMEOUT_S, wait_until
from tests.functional.qmp.crowd import open_files, play, resident_kib
from tests.functional.qmp.serving import raw_client, served, socket_path, supervisor_log

NEGOTIATE = {"execute": "qmp_capabilities"}
GROWTH_MAX_KIB = 8 << 10

TWO_CLIENTS = """
import asyncio, sys
from qemu.qmp import ExecuteError, QMPClient

async def main(path):
    one, two = QMPClient("one"), QMPClient("two")
    await one.connect(path)
    await two.connect(path)
    with one.listener("SNAPSHOT_CREATED") as of_one, two.listener("SNAPSHOT_CREATED") as of_two:
        answers = await asyncio.gather(
            one.execute("snapshot-create", {"name": "a"}),
            two.execute("query-status"),
            one.execute("query-name"),
            two.execute("snapshot-create", {"name": "b"}),
        )
        assert answers[0] == answers[3] == {} and answers[1]["running"] is False, answers
        for listener in (of_one, of_two):
            names = [(await listener.get())["data"]["name"] for _ in "ab"]
            assert sorted(names) == ["a", "b"], names
    try:
        await one.execute("snapshot-create", {"name": "a"})
    except ExecuteError as error:
        assert error.error_class == "GenericError" and "already" in str(error), error
    else:
        raise AssertionError("not refused")
    assert len(await two.execute("query-snapshots")) == 2
    await one.disconnect()
    assert len(await two.execute("query-snapshots")) == 2
    await two.disconnect()
    print("fine")

asyncio.run(main(sys.argv[1]))
"""


def test_two_clients_of_qemu_qmp_work_at_once(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm):
        done = vm.tool(sys.executable, "-c", TWO_CLIENTS, str(socket_path(vm)))
        assert (done.stdout, done.stderr) == ("fine\n", "")


def test_socat_gets_every_answer(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    lines = (
        '{"execute": "qmp_capabilities"}',
        '{"execute": "snapshot-create", "arguments": {"name": "a"}}',
        '{"execute": "query-snapshot-status", "id": 1}',
        "{'execute': 'query-qmp-schema'}",
        '{"execute": "snapshot-delete", "arguments": {"name": "a"}}',
    )
    with served(vm):
        argv = ("socat", "-t", f"{TIMEOUT_S:g}", "-", f"UNIX-CONNECT:{socket_path(vm)}")
        words = "\n".join(lines)
        done = subprocess.run(
            argv, input=words, env=vm.env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        greeting, *rest = done.stdout.splitlines()
        assert greeting.startswith('{"QMP": {"version": ')
        replies = [line for line in rest if not line.startswith('{"timestamp"')]
        assert len(replies) == 5
        assert replies[:3] == ['{"return": {}}', '{"return": {}}', '{"return": true, "id": 1}']
        assert len(replies[3]) > 100_000
        assert replies[4] == '{"return": {}}'


def test_each_client_negotiates_for_itself_and_has_its_own_ids(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), vm.qmp() as early, raw_client(vm, negotiate=False) as late:
        late.send_bytes(b'{"execute": "query-status", "id": "x"}')
        error = {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}
        assert late.receive() == {"error": error, "id": "x"}
        assert early.execute("query-status")["running"] is False
        late.execute("qmp_capabilities")
        with pytest.raises(QMPError, match="already complete"):
            early.execute("qmp_capabilities")
        for client in (late, early):
            client.send_bytes(b'{"execute": "query-name", "id": {"a": [1, null]}}')
        for client in (late, early):
            assert client.receive() == {"return": {}, "id": {"a": [1, None]}}


def test_events_reach_every_client_that_has_negotiated_and_no_other(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as one, vm.qmp() as two, raw_client(vm, negotiate=False) as silent:
        one.execute("snapshot-create", {"name": "a"})
        two.execute("cont")
        own.execute("stop")
        for client in (one, two):
            client.wait_event("STOP")
            client.wait_event("SNAPSHOT_CREATED")
        assert one.events == two.events
        assert silent.execute("qmp_capabilities") == {}
        assert silent.events == []
        two.execute("cont")
        silent.wait_event("RESUME")


def test_the_commands_of_one_client_are_answered_in_order(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), raw_client(vm) as client:
        commands = (
            b'{"execute": "snapshot-create", "arguments": {"name": "a"}, "id": 0}{"execute": "query-status", "id": 1}'
            b'{"execute": "query-snapshots", "id": 2}!{"execute": "no-such", "id": 4}'
            b'{"execute": "human-monitor-command", "arguments": {"command-line": "savevm b"}, "id": 5}'
            b'{"execute": "snapshot-load", "arguments": {"name": "a"}, "id": 6}{"execute": "query-vm", "id": 7}'
        )
        client.send_bytes(commands * 3)
        received: list[Any] = []
        while len(received) < 24:
            message = client.receive()
            if "event" not in message:
                received.append(message.get("id", 3))
        assert received == [0, 1, 2, 3, 4, 5, 6, 7] * 3


def test_fifty_clients_lose_and_swap_no_answer_and_cost_no_memory(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), vm.qmp() as client:
        pid = client.execute("query-vm")["supervisor_pid"]

        def rush(count: int) -> None:
            """50 clients, ``count`` commands each, whose answers tell them apart."""
            scripts = [
                [NEGOTIATE]
                + [
                    {"execute": "chardev-remove", "arguments": {"id": f"c{who}-{n}"}, "id": f"i{who}-{n}"}
                    if n % 2
                    else {"execute": "query-status", "id": [who, n]}
                    for n in range(count)
                ]
                for who in range(50)
            ]
            status = client.execute("query-status")
            for who, (first, *replies) in enumerate(play(socket_path(vm), scripts)):
                assert first == {"return": {}}
                assert replies == [
                    {
                        "error": {"class": "GenericError", "desc": f"Chardev 'c{who}-{n}' not found"},
                        "id": f"i{who}-{n}",
                    }
                    if n % 2
                    else {"return": status, "id": [who, n]}
                    for n in range(count)
                ]

        rush(20)
        files, before = open_files(pid), resident_kib(pid)
        rush(200)
        wait_until(lambda: open_files(pid) <= files, "the clients' descriptors to be closed")
        assert resident_kib(pid) - before < GROWTH_MAX_KIB
        assert supervisor_log(vm) == ""


def test_clients_that_come_and_go_leave_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), vm.qmp() as client:
        pid = client.execute("query-vm")["supervisor_pid"]

        def come_and_go(times: int) -> None:
            for n in range(times):
                with raw_client(vm, negotiate=n % 3 > 0) as other:
                    other.send_bytes(b'{"execute": "query-status"}' * (n % 5) + b'{"exe' * (n % 2))
                    if n % 7:
                        other.send_with_fds(b" ", [1, 1])
            wait_until(lambda: open_files(pid) <= files, "the clients' descriptors to be closed")

        files = open_files(pid)
        come_and_go(50)
        before = resident_kib(pid)
        come_and_go(500)
        assert resident_kib(pid) - before < GROWTH_MAX_KIB
        assert client.execute("query-status")["running"] is False
        assert supervisor_log(vm) == ""


def read_on(client: QMPClient) -> None:
    """Read for as long as something comes."""
    while True:
        client.receive()


def test_a_client_that_does_not_read_is_dropped_and_the_others_notice_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as other, raw_client(vm) as deaf:
        pid = other.execute("query-vm")["supervisor_pid"]
        before = resident_kib(pid)
        big = b'{"execute": "human-monitor-command", "arguments": {"command-line": "xp /300000bx 0"}}'
        deaf.send_bytes(big * 30)
        wait_until(lambda: "dropped" in supervisor_log(vm), "the client to be dropped")
        (line,) = supervisor_log(vm).splitlines()
        assert f"[{os.getpid()}]: it has left " in line
        assert resident_kib(pid) - before < 64 << 10
        other.execute("snapshot-create", {"name": "a"})
        assert [event["event"] for event in other.events].count("SNAPSHOT_CREATED") == 1
        with vm.qmp() as late:
            assert len(late.execute("query-snapshots")) == 1
        with pytest.raises(AssertionError, match="closed the connection"):
            read_on(deaf)


def test_while_qemu_is_blocked_new_clients_are_served_and_passed_commands_wait(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client, vm.qmp() as waiting:
        client.execute("snapshot-create", {"name": "a"})
        found = client.execute("query-vm")
        os.kill(found["qemu_pid"], signal.SIGSTOP)
        try:
            creating = client.send("snapshot-create", {"name": "b"})
            asking = [waiting.send("query-status") for _ in range(3)]
            for _ in range(2):
                with vm.qmp() as late:
                    while late.execute("query-vm")["busy"] is None:
                        pass  # the create was sent, and begins at once
                    assert [s["name"] for s in late.execute("query-snapshots")] == ["a"]
                    assert [s["name"] for s in late.execute("query-snapshots", {"tree": True})] == ["a"]
                    assert late.execute("query-snapshot", {"name": "a"})["consistent"]
                    assert [entry["name"] for entry in late.execute("query-snapshot-history")] == ["a"]
                    assert late.execute("query-current-snapshot")["name"] == "a"
                    assert " a " in late.hmp("info snapshots")
                    with pytest.raises(QMPError, match="busy with a create"):
                        late.execute("snapshot-delete", {"name": "a", "wait": False})
        finally:
            os.kill(found["qemu_pid"], signal.SIGCONT)
        assert client.reply("snapshot-create", creating) == {}
        assert [waiting.reply("query-status", number)["status"] for number in asking] == ["prelaunch"] * 3


def test_without_free_descriptors_clients_are_served_on_and_new_ones_wait(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), vm.qmp() as client:
        pid = client.execute("query-vm")["supervisor_pid"]

        def free() -> int:
            client.execute("query-status")
            used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            return next(number for number in itertools.count() if number not in used)

        # What it has open for a moment only, as it has just been started, does not count.
        lowest_free = min(free() for _ in range(20))
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        with socket.socket(socket.AF_UNIX) as late:
            late.settimeout(TIMEOUT_S)
            late.connect(str(socket_path(vm)))
            wait_until(lambda: "could not be accepted" in supervisor_log(vm), "the client to be refused for now")
            for _ in range(500):
                client.execute("query-status")
            assert len(supervisor_log(vm).splitlines()) < 100  # it does not try all the time
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            assert late.recv(8) == b'{"QMP": '
