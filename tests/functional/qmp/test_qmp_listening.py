"""Further addresses: Unix sockets, TCP on this host, and from outside only with a certificate."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import TIMEOUT_S, wait_until
from tests.functional.qmp.certificates import Authority
from tests.functional.qmp.serving import supervisor_log
from tests.functional.traps.safety import bare

QUERY = b'{"execute": "qmp_capabilities"}{"execute": "query-vm", "id": 1}'


@contextlib.contextmanager
def listening(vm: TestVM, *options: str) -> Iterator[list[int]]:
    """``snaptree run OPTIONS…`` a VM; yield its TCP ports; stop it afterwards."""
    done = vm.cli("run", "--detach", "--json", *options, vm.name, "--", *bare(vm))
    assert json.loads(done.stdout)["name"] == vm.name
    yield [int(port) for port in re.findall(r"tcp:[0-9.]+:([0-9]+)", done.stderr)]
    vm.cli("stop", "--discard", vm.name)


def assert_refused(vm: TestVM, code: int, words: str, *options: str) -> None:
    """Assert that ``snaptree run OPTIONS…`` fails, says why, and leaves nothing."""
    done = vm.cli("run", "--detach", *options, vm.name, "--", *bare(vm), check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert processes.marked(str(vm.root)) == []
    assert not (vm.home / "vms" / vm.name).exists()


def talk(connection: socket.socket) -> dict[str, Any]:
    """Negotiate over a connection, and return what query-vm returns.

    :raises OSError: where the other side doesn't want us.
    """
    connection.settimeout(TIMEOUT_S)
    with contextlib.closing(connection), connection.makefile("rb") as lines:
        assert "QMP" in json.loads(lines.readline() or b"{}"), "no greeting"
        connection.sendall(QUERY)
        assert json.loads(lines.readline()) == {"return": {}}
        reply = json.loads(lines.readline())
        assert reply["id"] == 1
        assert isinstance(reply["return"], dict)
        return reply["return"]


def tcp(port: int) -> socket.socket:
    """Connect to a port of this host."""
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def speaking_at_once(connection: socket.socket) -> socket.socket:
    """Send before the greeting comes."""
    connection.sendall(QUERY)
    return connection


def test_a_vm_is_served_at_every_address_that_is_given(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    one, two = vm.root / "one.sock", vm.root / "two.sock"
    addresses = (f"unix:{one}", "tcp:127.0.0.1:0", f"unix:{two}", "tcp:localhost:0")
    options = [word for address in addresses for word in ("--listen", address)]
    with listening(vm, *options) as ports:
        assert len(ports) == 2
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
        with QMPClient(one) as first, QMPClient(two) as second, vm.qmp() as own:
            first.execute("snapshot-create", {"name": "a"})
            for client in (first, second, own):
                client.wait_event("SNAPSHOT_CREATED")
                assert client.execute("query-current-snapshot")["name"] == "a"
            for port in ports:
                assert talk(tcp(port)) == own.execute("query-vm")
    assert not one.exists()
    assert not two.exists()


def test_tcp_clients_get_events_and_large_answers_and_are_named_in_history(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with (
        listening(vm, "--listen", "tcp:127.0.0.1:0") as (port,),
        tcp(port) as connection,
        connection.makefile("rb") as lines,
    ):
        lines.readline()
        create = b'{"execute": "snapshot-create", "arguments": {"name": "a"}}'
        connection.sendall(QUERY + create + b'{"execute": "query-qmp-schema"}')
        connection.shutdown(socket.SHUT_WR)
        messages = [json.loads(line) for line in lines]
        assert [message["event"] for message in messages if "event" in message].count("SNAPSHOT_CREATED") == 1
        assert len(messages[-1]["return"]) > 500
        with vm.qmp() as own:
            (entry,) = own.execute("query-snapshot-history")
            assert entry["client"] == f"tcp 127.0.0.1:{connection.getsockname()[1]}"


def test_attach_listens_too(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    path = vm.root / "more.sock"
    plain = vm.start_plain_qemu()
    vm.cli("attach", "--detach", "--listen", f"unix:{path}", vm.name, "--qmp", f"unix:{plain.attach_socket}")
    with QMPClient(path) as client:
        assert client.execute("query-vm")["name"] == vm.name


@pytest.mark.qemu("10")
def test_beyond_this_host_without_certificates_is_refused_by_name(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    words = "tcp:0.0.0.0:0 can be reached from other hosts, and QMP has no password."
    assert_refused(vm, 4, words, "--listen", "tcp:127.0.0.1:0", "--listen", "tcp:0.0.0.0:0")
    assert_refused(vm, 2, '"tcp:here" is no address to listen at', "--listen", "tcp:here")


@pytest.mark.qemu("10")
def test_an_address_that_cannot_be_had_is_refused_and_qemu_does_not_run(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    (vm.root / "file").touch()
    taken = vm.root / "taken.sock"
    with socket.socket() as port, socket.socket(socket.AF_UNIX) as server:
        port.bind(("127.0.0.1", 0))
        port.listen()
        server.bind(str(taken))
        server.listen()
        assert_refused(vm, 4, "Address already in use", "--listen", f"tcp:127.0.0.1:{port.getsockname()[1]}")
        assert_refused(vm, 4, "there is a file", "--listen", f"unix:{vm.root}/file")
        assert_refused(vm, 4, "No such file or directory", "--listen", f"unix:{vm.root}/no/such.sock")
        assert_refused(vm, 4, "another process serves there", "--listen", f"unix:{taken}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(taken))
    # Nobody serves at a dead one.
    with listening(vm, "--listen", f"unix:{taken}"), QMPClient(taken) as alive:
        assert alive.execute("query-vm")["name"] == vm.name


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"), "authority")


def tls_options(authority: Authority) -> list[str]:
    """Return the options for a server whose clients the authority signs."""
    server = authority.sign("server")
    return [
        *("--tls-cert", str(server.cert), "--tls-key", str(server.key)),
        *("--tls-client-ca", str(authority.pair.cert)),
    ]


def test_with_tls_a_client_with_a_certificate_comes_in_and_no_other(
    vm_factory: VMFactory, authority: Authority, tmp_path: Path
) -> None:
    vm = vm_factory(disks=1)
    alice = authority.sign("alice")
    stranger = Authority.make(tmp_path, "stranger").sign("mallory")
    with listening(vm, "--listen", "tcp:0.0.0.0:0", *tls_options(authority)) as (port,):

        def tls(context: ssl.SSLContext) -> ssl.SSLSocket:
            return context.wrap_socket(tcp(port), server_hostname="127.0.0.1")

        assert talk(tls(authority.context(alice)))["name"] == vm.name
        for context in (authority.context(None), authority.context(stranger)):
            # With TLS 1.3 a client learns only where the greeting should come that its certificate was missed.
            with pytest.raises((AssertionError, ssl.SSLError, ConnectionError), match=r"no greeting|TLS|reset"):
                talk(tls(context))
        with pytest.raises((AssertionError, ConnectionError), match=r"no greeting|reset"):
            talk(speaking_at_once(tcp(port)))

        # What it does stands in history under the name in its certificate.
        with contextlib.closing(tls(authority.context(alice))) as connection, connection.makefile("rb") as lines:
            lines.readline()
            connection.sendall(QUERY + b'{"execute": "snapshot-create", "arguments": {"name": "a"}, "id": 2}')
            while json.loads(lines.readline()).get("id") != 2:
                pass
        with vm.qmp() as own:
            (entry,) = own.execute("query-snapshot-history")
            assert re.fullmatch(r"alice 127\.0\.0\.1:[0-9]+", entry["client"])


@pytest.mark.qemu("10")
def test_tls_wants_all_its_files_and_good_ones(vm_factory: VMFactory, authority: Authority) -> None:
    vm = vm_factory(disks=1)
    options = tls_options(authority)
    listen = ("--listen", "tcp:0.0.0.0:0")
    assert_refused(vm, 2, "TLS wants three files", *listen, *options[:4])
    assert_refused(vm, 2, "cannot be used", *listen, *options[:3], "/no/such/file", *options[4:])


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_a_client_over_tcp_that_does_not_read_is_dropped(
    vm_factory: VMFactory, authority: Authority, secured: bool
) -> None:
    vm = vm_factory(disks=0)
    with listening(vm, "--listen", "tcp:127.0.0.1:0", *tls_options(authority) * secured) as (port,), vm.qmp() as own:
        deaf = tcp(port)
        if secured:
            deaf = authority.context(authority.sign("alice")).wrap_socket(deaf, server_hostname="127.0.0.1")
        with deaf:
            big = b'{"execute": "human-monitor-command", "arguments": {"command-line": "xp /300000bx 0"}}'
            deaf.sendall(b'{"execute": "qmp_capabilities"}' + big * 40)
            wait_until(lambda: "dropped" in supervisor_log(vm), "the client to be dropped")
            deaf.settimeout(TIMEOUT_S)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while deaf.recv(1 << 20):
                    pass
        assert own.execute("query-vm")["name"] == vm.name
