"""Many clients at once, each with its own commands under way.  Not for: one client's protocol."""

from __future__ import annotations

import json
import selectors
import socket
from pathlib import Path
from typing import Any

from tests.framework.waiting import TIMEOUT_S


class Member:
    """One client: what it still has to send, and what came back."""

    def __init__(self, path: Path, commands: list[dict[str, Any]]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.unsent = b"".join(json.dumps(command).encode() for command in commands)
        self.expected = len(commands)
        self.replies: list[dict[str, Any]] = []
        self._received = b""

    def send(self) -> None:
        """Send what goes."""
        self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> None:
        """Take the lines that came; the greeting and events are no replies."""
        data = self.socket.recv(1 << 16)
        assert data, "the server closed the connection"
        *lines, self._received = (self._received + data).split(b"\r\n")
        messages = [json.loads(line) for line in lines]
        self.replies += [message for message in messages if "event" not in message and "QMP" not in message]

    @property
    def done(self) -> bool:
        """Every command has its reply."""
        return len(self.replies) >= self.expected


def play(path: Path, scripts: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Connect one client for each script; all send all their commands at once; return every client's replies."""
    members = [Member(path, script) for script in scripts]
    try:
        with selectors.DefaultSelector() as selector:
            for member in members:
                selector.register(member.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, member)
            while not all(member.done for member in members):
                ready = selector.select(TIMEOUT_S)
                assert ready, f"no answer for {TIMEOUT_S:g} s: {[len(member.replies) for member in members]}"
                for key, events in ready:
                    member = key.data
                    if events & selectors.EVENT_WRITE:
                        member.send()
                        if not member.unsent:
                            selector.modify(member.socket, selectors.EVENT_READ, member)
                    if events & selectors.EVENT_READ:
                        member.receive()
        return [member.replies for member in members]
    finally:
        for member in members:
            member.socket.close()


def resident_kib(pid: int) -> int:
    """Return how much memory of a process is in RAM (VmRSS of proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def open_files(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
