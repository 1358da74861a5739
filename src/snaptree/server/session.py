"""One QMP client: its negotiation, its commands in order, its answers.  Not for: its bytes, nor what commands do."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine.vm import VM
from ..model.errors import NotReady, QEMUGone, SnaptreeError
from ..model.names import printable
from ..qemu.session import Reply
from . import monitor
from .commands import COMMANDS
from .connection import Connection
from .encode import encode, encode_compactly
from .framer import Garbage, Message
from .logs import qmp_log
from .refusals import check_continuing, check_passing, is_job_form
from .request import Argument, QMPError, Request, check_request, read_arguments
from .schema import merge_commands, merge_schema

if TYPE_CHECKING:
    from .server import Server

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
"""How long a client may take to read what it was told, where we end."""
READ_TIMEOUT_S = 60.0
"""How long it may where it has ended its own side (socat does so with the input's end) and reads on."""
MERGED = {"query-commands": merge_commands, "query-qmp-schema": merge_schema}
"""QEMU's answers that have ours added."""


class ClientSession:
    """A connected client."""

    def __init__(self, vm: VM, connection: socket.socket, who: str, server: Server) -> None:
        self.who = who
        self._vm = vm
        self._server = server
        self._wakeup = asyncio.Event()
        self._connection = Connection(connection, who, arrived=self._next, dropped=self._wakeup.set)
        self._negotiated = False
        self._working = False
        self._asking = False
        self._task: asyncio.Task[None] | None = None

    def start(self, done: Callable[[ClientSession], None]) -> None:
        """Greet, and serve until the client goes; then call ``done``."""
        self._task = asyncio.create_task(self._serve(), name=f"client {self.who}")
        self._task.add_done_callback(lambda task: self._ended(task, done))
        greeting = self._vm.session.greeting.get("QMP", {})
        # Out-of-band execution is not offered: everything waits its turn at QEMU's one session.
        self._connection.send(encode({"QMP": {**greeting, "capabilities": []}}))
        self._connection.read_on()

    def send_event(self, line: bytes) -> None:
        """Send an event, if the client has negotiated."""
        if self._negotiated:
            self._connection.send(line)

    async def close(self) -> None:
        """Let the client read what it was told, and end."""
        # What the worker is doing may hold an answer that the client waits for; it has ended or failed by now.
        for _ in range(3):
            await asyncio.sleep(0)
        await self._connection.sent(CLOSE_TIMEOUT_S)
        self._connection.drop()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], done: Callable[[ClientSession], None]) -> None:
        done(self)
        if not task.cancelled() and task.exception() is not None:
            log.error("the session of %s failed", self.who, exc_info=task.exception())

    async def _serve(self) -> None:
        try:
            while True:
                while self._asking or not self._connection.queue:
                    self._working = False
                    self._wakeup.clear()
                    await self._wakeup.wait()
                self._working = True
                frame = self._connection.take()
                if frame is None:
                    await self._connection.sent(READ_TIMEOUT_S)
                    return
                reply = await self._answer(frame)
                if reply is not None:
                    self._connection.send(encode(reply))
        finally:
            self._connection.drop()

    def _next(self) -> None:
        """Let the next command be executed: at once where it only asks QEMU, else by the task, in its turn."""
        connection = self._connection
        idle = not (self._working or self._asking or connection.gone)
        if idle and connection.queue and self._ask(connection.queue[0]):
            connection.take()
        else:
            self._wakeup.set()

    def _ask(self, frame: Message | Garbage | None) -> bool:
        """Pass on what only asks, if that can be done here and now; it spares the task's turns of the event loop.

        :return: false where it is for the task.
        """
        if not (isinstance(frame, Message) and self._negotiated and self._vm.gate.is_set()):
            return False
        try:
            request = check_request(frame.value)
        except QMPError:
            return False
        command = request.command
        if not command.startswith("query-") or command in COMMANDS or command in MERGED:
            return False

        def answered(reply: Reply | QEMUGone) -> None:
            self._asking = False
            if isinstance(reply, QEMUGone):
                reply = {"error": error_object(reply)}
            self._connection.send(encode({**reply, "id": request.id} if request.id_present else reply))
            if self._connection.queue:
                asyncio.get_running_loop().call_soon(self._next)

        self._asking = True
        if not self._vm.session.ask(without_id(frame), answered, write=encode_compactly):
            self._asking = False
            return False
        return True

    async def _answer(self, frame: Message | Garbage) -> dict[str, Any] | None:
        if isinstance(frame, Garbage):
            return {"error": {"class": "GenericError", "desc": frame.desc}}
        extra: dict[str, Any] = {}
        try:
            request = check_request(frame.value)
            if request.id_present:
                extra = {"id": request.id}
            reply = await self._execute(request, frame)
        except QMPError as error:
            if error.id_present:
                extra = {"id": error.id}
            reply = {"error": {"class": error.error_class, "desc": error.desc}}
        except SnaptreeError as error:
            reply = {"error": error_object(error)}
        except Exception as error:
            log.exception("the command of %s failed by a defect", self.who)
            words = SnaptreeError(
                f"snaptree itself failed: {type(error).__name__}.",
                f"{self._vm.place.supervisor_log} says where; please report it. `snaptree status {self._vm.place.name}`"
                " says how the VM is.",
            )
            reply = {"error": error_object(words)}
        return {**reply, **extra}

    async def _execute(self, request: Request, frame: Message) -> dict[str, Any]:
        command, arguments = request.command, request.arguments
        if not self._negotiated:
            if command != "qmp_capabilities":
                raise QMPError("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
            read_capabilities(arguments)
            self._negotiated = True
            return {"return": {}}
        if command == "qmp_capabilities":
            raise QMPError("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
        ours = COMMANDS.get(command)
        if ours is not None and not is_job_form(command, arguments):
            checked = read_arguments(arguments, ours.arguments)
            self._note(command)
            # An operation that has begun goes on to its end, also when its client goes.
            return {"return": await asyncio.shield(asyncio.ensure_future(ours.run(self._vm, checked, self.who)))}
        if command == "human-monitor-command":
            line = arguments.get("command-line")
            vm = self._vm
            found = monitor.find(line, raw=vm.allow_raw) if isinstance(line, str) else None
            if found is not None:
                self._note(monitor.split(str(line))[0], " (monitor)")
                answering = monitor.answer(vm, *found, self.who)
                return {"return": await asyncio.shield(asyncio.ensure_future(answering))}
        if not self._vm.allow_raw:
            check_passing(command, arguments)
        return await self._pass_on(request, frame)

    def _note(self, command: str, how: str = "") -> None:
        """Log a command.  Not what only asks: a client that does so every second would push out all the rest."""
        if not command.startswith("query-"):
            qmp_log.info("%s: %s%s", self.who, command if command.isprintable() else printable(command), how)

    async def _pass_on(self, request: Request, frame: Message) -> dict[str, Any]:
        message = without_id(frame)
        if request.command == "quit" or is_monitor_quit(request):
            # What is under way ends first: a snapshot is whole or not there.
            async with self._vm.lock:
                self._server.quit_asked = True
                reply = await self._vm.session.pass_on(message, write=encode_compactly)
                self._server.quit_asked = "error" not in reply
                return reply
        await self._vm.gate.wait()
        # What was under way has ended only now, and may have left the VM broken.
        check_continuing(self._vm, request.command)
        if request.command == "human-monitor-command":
            refusal = monitor.refused_to_continue(self._vm, request.arguments.get("command-line"))
            if refusal is not None:
                return {"return": refusal}
        self._note(request.command, " (passed on)")
        self._vm.passed(request.command)
        fd = self._connection.take_fd() if request.command in ("getfd", "add-fd") else None
        if fd is not None:
            try:
                return await self._vm.session.pass_on(message, write=encode_compactly, fd=fd)
            finally:
                os.close(fd)
        reply = await self._vm.session.pass_on(message, write=encode_compactly)
        if "return" in reply and request.command in MERGED:
            reply["return"] = MERGED[request.command](reply["return"])
        return reply


def without_id(frame: Message) -> dict[str, Any]:
    """Return a command as it came, but for the client's id."""
    assert isinstance(frame.value, dict)
    return {key: value for key, value in frame.value.items() if key != "id"}


def is_monitor_quit(request: Request) -> bool:
    """Say whether this is ``quit`` typed at the human monitor."""
    line = request.arguments.get("command-line")
    if request.command != "human-monitor-command" or not isinstance(line, str):
        return False
    return monitor.split(line) in (("q", ""), ("quit", ""))


def read_capabilities(arguments: dict[str, Any]) -> None:
    """Check the arguments of qmp_capabilities; there is nothing to enable.

    :raises QMPError: in QEMU's words.
    """
    for name in read_arguments(arguments, {"enable": Argument("[str]", optional=True)}).get("enable", ()):
        if name != "oob":
            raise QMPError("GenericError", f"Parameter 'null' does not accept value '{name}'")
        raise QMPError("GenericError", "Capability oob not available")


def error_object(error: SnaptreeError) -> dict[str, Any]:
    """Return the error object of a failure of ours: QMP's members, and ours beside them."""
    found: dict[str, Any] = {
        "class": "GenericError",
        "desc": str(error),
        "code": error.code,
        "message": error.message,
        "remedy": error.remedy,
    }
    if isinstance(error, NotReady):
        found["reasons"] = [reason.to_json() for reason in error.reasons]
    if isinstance(error, QEMUGone):
        found["desc"] = error.message
    return found
