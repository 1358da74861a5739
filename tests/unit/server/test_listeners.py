"""Addresses to listen at: which there are, and which only with certificates."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from snaptree.model.errors import Refused, UsageError
from snaptree.server.listeners import Address, TLSFiles, check, check_path, context, parse


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
        ("tcp:127.0.0.1:4444", "tcp:127.0.0.1:4444", True),
        ("tcp:127.8.9.1:0", "tcp:127.8.9.1:0", True),
        ("tcp:localhost:65535", "tcp:127.0.0.1:65535", True),
        ("tcp:[::1]:1", "tcp:[::1]:1", True),
        ("tcp:0.0.0.0:1", "tcp:0.0.0.0:1", False),
        ("tcp:[::]:1", "tcp:[::]:1", False),
        ("tcp:192.0.2.7:1", "tcp:192.0.2.7:1", False),
    ],
)
def test_an_address_is_a_path_or_an_ip_address_with_a_port(text: str, address: str, loopback: bool) -> None:
    found = parse(text)
    assert (str(found), found.loopback) == (address, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "/x",
        "unix:",
        "tcp:",
        "tcp:1",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:",
        "tcp:127.0.0.1:65536",
        "tcp:h:1",
        "udp:::1",
    ],
)
def test_what_is_no_address_is_a_matter_of_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is no address to listen at"):
        parse(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "2001:db8::1"])
def test_beyond_loopback_nothing_goes_without_tls(host: str) -> None:
    with pytest.raises(Refused, match="can be reached from other hosts"):
        check([Address(host="127.0.0.1", port=1), Address(host=host, port=1)], None)
    check([Address(host="127.0.0.1", port=1), Address(host="::1", port=1), Address(path=Path("/x"))], None)


def test_tls_files_that_cannot_be_used_are_found_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        files = TLSFiles(*[tmp_path / name] * 3)
        with pytest.raises(UsageError, match=rf"{name}.* cannot be used"):
            check([], files)
        with pytest.raises(UsageError):
            context(files)


def test_a_socket_that_nobody_serves_at_may_be_replaced_and_nothing_else(tmp_path: Path) -> None:
    file, dead, alive = tmp_path / "file", tmp_path / "dead", tmp_path / "alive"
    file.touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(dead))
    check_path(tmp_path / "none")
    check_path(dead)
    with pytest.raises(Refused, match="there is a file"):
        check_path(file)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(alive))
        server.listen(0)
        for _ in range(3):  # also once its queue is full
            with pytest.raises(Refused, match="another process serves there"):
                check_path(alive)
