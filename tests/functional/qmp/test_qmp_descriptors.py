"""File descriptors travel beside the bytes (SCM_RIGHTS), through us to QEMU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.conftest import VMFactory
from tests.framework.waiting import wait_until
from tests.functional.qmp.crowd import open_files
from tests.functional.qmp.serving import RawClient, answer, raw_client, served

NONE_CAME = {"class": "GenericError", "desc": "No file descriptor supplied via SCM_RIGHTS"}


def execute_with(client: RawClient, command: bytes, *paths: Path) -> Any:
    """Send a command with descriptors of these files, and return the reply."""
    fds = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        client.send_with_fds(command, fds)
    finally:
        for fd in fds:
            os.close(fd)
    while "event" in (reply := client.receive()):
        pass
    return reply


def test_add_fd_gives_qemu_the_clients_file(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    one, two = vm.root / "one", vm.root / "two"
    one.touch()
    two.touch()
    with served(vm) as own, raw_client(vm) as client:
        qemu = client.execute("query-vm")["qemu_pid"]
        command = b'{"execute": "add-fd", "arguments": {"fdset-id": 7, "opaque": "ours"}}'
        for path in (one, two):
            added = execute_with(client, command, path)["return"]
            assert added["fdset-id"] == 7
            assert os.readlink(f"/proc/{qemu}/fd/{added['fd']}") == str(path)
        (fdset,) = client.execute("query-fdsets")
        assert fdset["fdset-id"] == 7
        assert [entry["opaque"] for entry in fdset["fds"]] == ["ours", "ours"]
        assert own.execute("query-fdsets") == [fdset]
        assert client.execute("remove-fd", {"fdset-id": 7}) == {}


def test_getfd_names_a_descriptor_that_closefd_closes(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    (vm.root / "one").touch()
    with served(vm), raw_client(vm) as client:
        qemu = client.execute("query-vm")["qemu_pid"]

        def holds_it() -> bool:
            return str(vm.root / "one") in [os.readlink(entry) for entry in Path(f"/proc/{qemu}/fd").iterdir()]

        assert execute_with(client, b'{"execute": "getfd", "arguments": {"fdname": "x"}}', vm.root / "one") == {
            "return": {}
        }
        assert holds_it()
        assert client.execute("closefd", {"fdname": "x"}) == {}
        assert not holds_it()
        kind, error = answer(client, "closefd", {"fdname": "x"})
        assert (kind, error["desc"]) == ("error", "File descriptor named 'x' not found")


def test_without_a_descriptor_it_is_qemus_own_error(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm) as own, raw_client(vm) as client:
        for command, arguments in (
            ("add-fd", {}),
            ("getfd", {"fdname": "x"}),
            ("getfd", {"fdname": "0"}),
            ("getfd", {}),
        ):
            without = answer(own, command, arguments)
            assert without[0] == "error"
            assert answer(client, command, arguments) == without
        assert answer(client, "getfd", {"fdname": "x"}) == ("error", NONE_CAME)


def test_one_command_takes_one_descriptor_and_nothing_is_left_of_the_others(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    paths = [vm.root / name for name in "abc"]
    for path in paths:
        path.touch()
    with served(vm) as own, raw_client(vm) as client:
        found = client.execute("query-vm")
        before = open_files(found["supervisor_pid"])
        add = b'{"execute": "add-fd"}'
        added = execute_with(client, add, *paths)["return"]
        assert os.readlink(f"/proc/{found['qemu_pid']}/fd/{added['fd']}") == str(paths[0])
        assert execute_with(client, add) == {"error": NONE_CAME}
        # What comes later takes the place of what no command has taken.
        client.send_with_fds(b" ", [0, 1])
        again = execute_with(client, add, paths[1])["return"]
        assert os.readlink(f"/proc/{found['qemu_pid']}/fd/{again['fd']}") == str(paths[1])
        # A descriptor is its client's: another one's command does not take it.
        client.send_with_fds(b" ", [0])
        client.execute("query-status")
        with raw_client(vm) as other:
            assert execute_with(other, add) == {"error": NONE_CAME}
        assert "return" in execute_with(client, add)
        assert len(own.execute("query-fdsets")) == 3
        wait_until(lambda: open_files(found["supervisor_pid"]) == before, "the supervisor to hold none of them")


def test_descriptors_find_their_commands_while_others_send_commands(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=0)
    with served(vm), raw_client(vm) as client, vm.qmp() as busy:
        qemu = client.execute("query-vm")["qemu_pid"]
        for n in range(30):
            path = vm.root / f"file-{n}"
            path.touch()
            numbers = [busy.send("query-status") for _ in range(5)]
            added = execute_with(client, b'{"execute": "add-fd", "arguments": {"fdset-id": %d}}' % n, path)["return"]
            assert (added["fdset-id"], os.readlink(f"/proc/{qemu}/fd/{added['fd']}")) == (n, str(path))
            for number in numbers:
                assert busy.reply("query-status", number)["running"] is False


def test_a_disk_opened_by_the_client_becomes_a_disk_of_the_vm(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    path = vm.new_image("c", "1M")
    with served(vm), raw_client(vm) as client:
        fd = os.open(path, os.O_RDWR)
        try:
            client.send_with_fds(b'{"execute": "add-fd", "arguments": {"fdset-id": 1}}', [fd])
            assert client.receive()["return"]["fdset-id"] == 1
        finally:
            os.close(fd)
        protocol = {"driver": "file", "filename": "/dev/fdset/1"}
        client.execute("blockdev-add", {"driver": "qcow2", "node-name": "c", "file": protocol})
        names = [node["node-name"] for node in client.execute("query-named-block-nodes", {"flat": True})]
        assert "c" in names
