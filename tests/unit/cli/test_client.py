"""The blocking client against a server that says exactly what the test wants."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snaptree.cli import client as client_module
from snaptree.cli.client import Client
from snaptree.model.errors import (
    NameTaken,
    NotReady,
    ProtocolError,
    QEMUFailed,
    SnaptreeError,
    VMNotRunning,
    all_errors,
)
from snaptree.model.reason import Reason
from snaptree.server.encode import encode

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
Script = list[bytes | Callable[[dict[str, Any]], bytes]]


class Peer:
    """Greets, and answers one command after another from a list; then closes."""

    def __init__(self, path: Path, greeting: bytes, script: Script) -> None:
        self.path = path
        self.commands: list[dict[str, Any]] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._greeting = greeting
        self._script = script
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        # The client may have had enough of us.
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as lines:
            connection.sendall(self._greeting)
            for answer in self._script:
                line = lines.readline()
                if not line:
                    return
                command = json.loads(line)
                self.commands.append(command)
                connection.sendall(answer(command) if callable(answer) else answer)

    def close(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._server.close()


def returns(value: object) -> Callable[[dict[str, Any]], bytes]:
    return lambda command: encode({"return": value, "id": command["id"]})


def fails(**error: object) -> Callable[[dict[str, Any]], bytes]:
    return lambda command: encode({"error": {"class": "GenericError", "desc": "D", **error}, "id": command["id"]})


NEGOTIATED = returns({})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(*script: bytes | Callable[[dict[str, Any]], bytes], greeting: bytes = GREETING) -> Peer:
        peers.append(Peer(tmp_path / f"{len(peers)}.sock", greeting, list(script)))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


Serve = Callable[..., Peer]


def test_a_command_returns_its_value_and_is_sent_as_one_line_with_an_id(serve: Serve) -> None:
    peer = serve(NEGOTIATED, returns(True))
    with Client.connect(peer.path, 5) as client:
        assert client.execute("query-snapshot-status", {"reasons": False}) is True
    assert peer.commands == [
        {"execute": "qmp_capabilities", "id": 1},
        {"execute": "query-snapshot-status", "id": 2, "arguments": {"reasons": False}},
    ]


def test_events_before_an_answer_are_kept_in_order(serve: Serve) -> None:
    def answer(command: dict[str, Any]) -> bytes:
        return b"".join(encode({"event": name, "data": {}}) for name in "AB") + encode(
            {"return": 1, "id": command["id"]}
        )

    with Client.connect(serve(NEGOTIATED, answer).path, 5) as client:
        assert client.execute("x") == 1
        assert [event["event"] for event in client.events] == ["A", "B"]


def test_the_answer_to_an_earlier_command_is_not_taken_for_this_one_s(serve: Serve) -> None:
    def late(command: dict[str, Any]) -> bytes:
        return encode({"return": "old", "id": command["id"] - 1}) + encode({"return": "new", "id": command["id"]})

    with Client.connect(serve(NEGOTIATED, late).path, 5) as client:
        assert client.execute("x") == "new"


def test_an_error_without_an_id_is_the_answer_too(serve: Serve) -> None:
    answer = encode({"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}})
    with (
        Client.connect(serve(NEGOTIATED, answer).path, 5) as client,
        pytest.raises(QEMUFailed, match="expecting value"),
    ):
        client.execute("x")


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.__name__)
def test_an_error_of_ours_is_raised_as_its_class_with_its_remedy(serve: Serve, kind: type[SnaptreeError]) -> None:
    peer = serve(NEGOTIATED, fails(code=kind.code, message="M.", remedy="R."))
    with Client.connect(peer.path, 5) as client, pytest.raises(kind) as caught:
        client.execute("x")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.remedy) == ("M.", "R.")


def test_reasons_come_with_not_ready(serve: Serve) -> None:
    reason = Reason("raw", "m", "r", "vda")
    peer = serve(
        NEGOTIATED, fails(code="not-ready", message="M", remedy="", reasons=[reason.to_json(), "?", {"code": 1}])
    )
    with Client.connect(peer.path, 5) as client, pytest.raises(NotReady) as caught:
        client.execute("x")
    assert caught.value.reasons == (reason, Reason("1", "", ""))


def test_an_error_with_an_unknown_code_is_a_failure(serve: Serve) -> None:
    peer = serve(NEGOTIATED, fails(code="of-a-later-version", message="M"))
    with Client.connect(peer.path, 5) as client, pytest.raises(SnaptreeError, match="M") as caught:
        client.execute("x")
    assert caught.value.exit_code == 1


def test_an_error_without_a_code_is_qemu_s_and_has_its_words_on_one_line(serve: Serve) -> None:
    peer = serve(NEGOTIATED, fails(desc="no\r\nway\x1b[2J"))
    with Client.connect(peer.path, 5) as client, pytest.raises(QEMUFailed) as caught:
        client.execute("quit")
    assert caught.value.message == "QEMU's answer to quit: no  way [2J."


def test_a_client_goes_on_after_an_error(serve: Serve) -> None:
    peer = serve(NEGOTIATED, fails(code="name-taken", message="M"), returns(2))
    with Client.connect(peer.path, 5) as client:
        with pytest.raises(NameTaken):
            client.execute("x")
        assert client.execute("y") == 2


def test_a_socket_that_nobody_listens_at_means_that_the_vm_does_not_run(tmp_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path in (tmp_path / "none.sock", dead, tmp_path / ("x" * 200)):
        with pytest.raises(VMNotRunning):
            Client.connect(path, 5)


@pytest.mark.parametrize("greeting", [b'{"hello": 1}\n', b"SSH-2.0-x\n", b"[]\n", b"", b'{"QMP"', b"\xff\n"], ids=repr)
def test_what_does_not_greet_as_qmp_is_a_protocol_error(serve: Serve, greeting: bytes) -> None:
    with pytest.raises(ProtocolError):
        Client.connect(serve(greeting=greeting).path, 5)


def test_a_server_that_is_silent_is_a_protocol_error_once_the_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(ProtocolError, match="does not answer"):
            Client.connect(path, 0.01)


@pytest.mark.parametrize("rest", [b"", b'{"return": {', b'{"return": 1, "id": 2}'], ids=repr)
def test_a_connection_that_ends_before_the_answer_is_a_protocol_error(serve: Serve, rest: bytes) -> None:
    with Client.connect(serve(NEGOTIATED, rest).path, 5) as client, pytest.raises(ProtocolError, match="ended"):
        client.execute("x")


def test_a_command_after_the_connection_has_ended_is_a_protocol_error(serve: Serve) -> None:
    peer = serve(NEGOTIATED)
    with Client.connect(peer.path, 5) as client:
        peer.close()
        with pytest.raises(ProtocolError, match="ended"):
            client.execute("x")


def test_an_endless_line_is_not_read_to_its_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LINE_MAX_BYTES", 1000)
    peer = serve(NEGOTIATED, b'{"return": "' + b"x" * 2000)
    with Client.connect(peer.path, 5) as client, pytest.raises(ProtocolError, match="more than 1000 bytes"):
        client.execute("x")


def test_an_answer_of_many_megabytes_comes_whole(serve: Serve) -> None:
    with Client.connect(serve(NEGOTIATED, returns("x" * (8 << 20))).path, 5) as client:
        assert len(client.execute("x")) == 8 << 20


def test_an_answer_that_is_nested_thousands_deep_comes_whole(serve: Serve) -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with Client.connect(serve(NEGOTIATED, returns(value)).path, 5) as client:
        found, depth = client.execute("x"), 0
    while found:
        found, depth = found[0], depth + 1
    assert depth == 5000


@pytest.mark.parametrize(("uid", "fine"), [(0, True), (os.geteuid(), True), (os.geteuid() + 1, False)])
def test_only_a_server_of_our_own_user_or_of_root_is_believed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, uid: int, fine: bool
) -> None:
    class Socket(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
            assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
            return struct.pack("3i", 1, uid, uid)

    path = serve(NEGOTIATED).path
    monkeypatch.setattr(socket, "socket", Socket)
    if fine:
        Client.connect(path, 5).close()
    else:
        with pytest.raises(ProtocolError, match=f"uid {uid}"):
            Client.connect(path, 5)


def test_importing_it_loads_no_asyncio_and_nothing_of_the_server() -> None:
    code = "import sys, snaptree.cli.client; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = set(run.stdout.split())
    assert not {name for name in loaded if name.partition(".")[0] in ("asyncio", "qemu", "rich", "sqlite3", "shtab")}
    assert not {name for name in loaded if name.startswith(("snaptree.server", "snaptree.engine", "snaptree.qemu"))}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
