"""The session to QEMU, with a QEMU that says what a real one would not say when asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from snaptree.model.errors import ProtocolError, QEMUFailed, QEMUGone
from snaptree.qemu.session import Reply, Session

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}, "capabilities": []}}
Say = Callable[..., None]
Script = Callable[[list[dict[str, Any]], Say], None]


def talk(tmp_path: Path, answering: Script, use: Callable[[Session], Awaitable[None]]) -> list[dict[str, Any]]:
    """Let ``use`` use a session to a peer that calls ``answering`` with all commands so far; return the events."""
    events: list[dict[str, Any]] = []
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: list[dict[str, Any]] = []

        def say(*messages: object) -> None:
            writer.write(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

        say(GREETING)
        received, stays = b"", True
        while stays and (data := await reader.read(1 << 16)):
            received += data
            while received:
                try:
                    message, end = json.JSONDecoder().raw_decode(received.decode())
                except json.JSONDecodeError:
                    break  # the rest is still to come
                received = received[end:]
                if message["execute"] == "qmp_capabilities":
                    say({"return": {}})
                elif message["execute"] == "leave":
                    stays = False
                else:
                    commands.append(message)
                    answering(commands, say)
        writer.close()
        left.set()

    async def run() -> None:
        server = await asyncio.start_unix_server(serve, str(tmp_path / "sock"))
        session = await Session.connect(f"unix:{tmp_path / 'sock'}", events.append)
        assert session.greeting == GREETING
        await use(session)
        await session.close()
        assert session.closed.is_set()
        await left.wait()
        server.close()

    asyncio.run(run())
    return events


def watch_writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets everything that is written to a stream."""
    sent: list[bytes] = []
    writes = asyncio.StreamWriter.write

    def write(writer: asyncio.StreamWriter, data: bytes) -> None:
        sent.append(data)
        writes(writer, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", write)
    return sent


def echo(commands: list[dict[str, Any]], say: Say) -> None:
    say({"return": commands[-1]["execute"], "id": commands[-1]["id"]})


def test_each_command_gets_its_own_answer(tmp_path: Path) -> None:
    def backwards(commands: list[dict[str, Any]], say: Say) -> None:
        if len(commands) == 3:
            say(*({"return": command["execute"], "id": command["id"]} for command in reversed(commands)))

    async def use(session: Session) -> None:
        assert await asyncio.gather(*(session.execute(name) for name in "abc")) == ["a", "b", "c"]

    talk(tmp_path, backwards, use)


def test_an_event_is_handed_over_before_the_answer_that_follows_it(tmp_path: Path) -> None:
    seen: list[int] = []

    def with_events(commands: list[dict[str, Any]], say: Say) -> None:
        say(
            {"event": "ONE"}, {"event": "TWO", "data": {}}, {"return": {}, "id": commands[-1]["id"]}, {"event": "THREE"}
        )

    async def use(session: Session) -> None:
        await session.execute("x")
        seen.append(1)
        await session.execute("x")

    events = talk(tmp_path, with_events, use)
    assert [event["event"] for event in events] == ["ONE", "TWO", "THREE"] * 2


def test_an_event_that_is_expected_is_told_once_to_each_who_expects_it(tmp_path: Path) -> None:
    def answering(commands: list[dict[str, Any]], say: Say) -> None:
        say({"event": "B", "data": {"n": 1}}, {"event": "A", "data": {"n": 2}}, {"event": "A", "data": {"n": 3}})
        echo(commands, say)

    async def use(session: Session) -> None:
        first, second = (session.expect(lambda event: event["event"] == "A") for _ in range(2))
        given_up = session.expect(lambda event: True)
        given_up.cancel()
        last = session.expect(lambda event: event["data"]["n"] == 3)
        await session.execute("a")
        assert [(await expected)["data"]["n"] for expected in (first, second, last)] == [2, 2, 3]

    assert [event["data"]["n"] for event in talk(tmp_path, answering, use)] == [1, 2, 3]


def test_who_expects_an_event_is_told_that_the_connection_has_ended(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        expected = session.expect(lambda event: True)
        with pytest.raises(QEMUGone):
            await session.execute("leave")
        with pytest.raises(QEMUGone):
            await expected

    talk(tmp_path, echo, use)


def test_an_error_without_an_id_is_the_answer_to_the_oldest_command_and_no_end(tmp_path: Path) -> None:
    def parse_error_once(commands: list[dict[str, Any]], say: Say) -> None:
        if len(commands) == 2:
            say({"error": {"class": "GenericError", "desc": "JSON parse error"}})
            say({"return": "second", "id": commands[1]["id"]})
        elif len(commands) > 2:
            echo(commands, say)

    async def use(session: Session) -> None:
        waiting = (session.execute("a"), session.execute("b"))
        first, second = list[Any](await asyncio.gather(*waiting, return_exceptions=True))
        assert isinstance(first, QEMUFailed)
        assert "JSON parse error" in first.message
        assert second == "second"
        assert await session.execute("c") == "c"

    talk(tmp_path, parse_error_once, use)


def test_an_answer_that_nobody_waits_for_any_more_is_nobody_elses(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        impatient = asyncio.create_task(session.execute("first"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await session.execute("second") == "second"
        assert impatient.cancelled()

    def late(commands: list[dict[str, Any]], say: Say) -> None:
        if len(commands) == 2:
            say(
                *({"return": command["execute"], "id": command["id"]} for command in commands), {"return": 1, "id": "x"}
            )

    talk(tmp_path, late, use)


def test_an_answer_to_a_client_that_is_dead_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    owed: list[str] = []

    def owing(commands: list[dict[str, Any]], say: Say) -> None:
        say(*({"return": "of the dead one", "id": id} for id in owed))
        owed.append(commands[-1]["id"])
        echo(commands, say)

    async def use(session: Session) -> None:
        assert await session.execute("first") == "first"
        assert await session.execute("second") == "second"

    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        talk(folder, owing, use)
    assert len(set(owed)) == 4
    assert max(len(id) for id in owed) < 8, "QEMU reads byte by byte"


def test_an_answer_without_an_id_is_nobodys_but_where_it_is_an_error(tmp_path: Path) -> None:
    def answering(commands: list[dict[str, Any]], say: Say) -> None:
        say({"return": {}})  # to the negotiation, where the one before was taken for that
        echo(commands, say)

    async def use(session: Session) -> None:
        assert await session.execute("first") == "first"

    talk(tmp_path, answering, use)


def test_the_end_of_the_connection_fails_what_waits_and_what_comes_later(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        waiting = asyncio.create_task(session.execute("wait"))
        await asyncio.sleep(0)
        with pytest.raises(QEMUGone, match='ended before the answer to "leave"'):
            await session.execute("leave")
        with pytest.raises(QEMUGone, match='ended before the answer to "wait"'):
            await waiting
        await session.closed.wait()
        with pytest.raises(QEMUGone):
            await session.execute("late")

    talk(tmp_path, lambda commands, say: None, use)


@pytest.mark.parametrize("commands_before", [0, 1, 5])
def test_a_peer_that_says_what_is_no_qmp_is_left(tmp_path: Path, commands_before: int) -> None:
    def then_nonsense(commands: list[dict[str, Any]], say: Say) -> None:
        if len(commands) <= commands_before:
            echo(commands, say)
        else:
            say("no object")

    async def use(session: Session) -> None:
        for _ in range(commands_before):
            assert await session.execute("x") == "x"
        with pytest.raises(QEMUGone):
            await session.execute("x")
        await session.closed.wait()

    talk(tmp_path, then_nonsense, use)


def test_a_command_that_is_asked_without_waiting_is_answered_by_a_call(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        replies: list[Reply | QEMUGone] = []
        assert session.ask({"execute": "a"}, replies.append)
        assert session.ask({"execute": "b" * (64 << 20)}, replies.append)  # more than QEMU takes
        assert await session.execute("c") == "c"
        assert replies == [
            {"error": {"class": "GenericError", "desc": "JSON token size limit exceeded"}},
            {"return": "a"},
        ]
        assert session.ask({"execute": "leave"}, replies.append)
        await session.closed.wait()
        assert session.ask({"execute": "late"}, replies.append)
        assert [str(reply) for reply in replies[2:]] == [
            f'QEMU\'s QMP connection unix:{tmp_path}/sock ended before the answer to "{command}".'
            for command in ("leave", "late")
        ]

    talk(tmp_path, echo, use)


def test_an_answer_may_have_many_mebibytes(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        assert len(await session.execute("big")) == 30 << 20
        assert await session.execute("x") == "x" * (30 << 20)

    talk(tmp_path, lambda commands, say: say({"return": "x" * (30 << 20), "id": commands[-1]["id"]}), use)


def test_a_message_that_qemu_would_not_take_gets_qemus_answer_without_asking(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        reply = await session.pass_on({"execute": "x", "arguments": {"a": "a" * (64 << 20)}})
        assert reply == {"error": {"class": "GenericError", "desc": "JSON token size limit exceeded"}}
        assert await session.execute("x") == "x"

    talk(tmp_path, echo, use)


def test_a_peer_that_says_nothing_is_taken_for_one_that_talks_to_somebody_else(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.close()
        left.set()

    async def run() -> None:
        server = await asyncio.start_unix_server(say_nothing, str(tmp_path / "sock"))
        with pytest.raises(ProtocolError, match="another client holds it"):
            await Session.connect(str(tmp_path / "sock"), lambda event: None, timeout_s=0.01)
        await left.wait()  # nothing is left open, so that others may have the socket
        server.close()

    asyncio.run(run())


def test_where_nobody_listens_qemu_is_gone(tmp_path: Path) -> None:
    with pytest.raises(QEMUGone, match="Nobody answers"):
        asyncio.run(Session.connect(str(tmp_path / "sock"), lambda event: None))


def test_a_command_that_is_begun_is_under_way_before_anybody_waits_for_it(tmp_path: Path) -> None:
    def answering(commands: list[dict[str, Any]], say: Say) -> None:
        id = commands[-1]["id"]
        say({"return": 7, "id": id} if commands[-1]["execute"] == "good" else {"error": {"desc": "No"}, "id": id})

    async def use(session: Session) -> None:
        good, bad = session.begin("good"), session.begin("bad")
        await session.execute("good")  # answered in order: so both have been sent before it
        assert good.done()
        assert bad.done()
        assert await good == 7
        with pytest.raises(QEMUFailed, match=r"QEMU's answer to bad: No\."):
            await bad
        lost = session.begin("leave")
        with pytest.raises(QEMUGone):
            await lost

    talk(tmp_path, answering, use)


def test_what_is_asked_in_one_turn_of_the_loop_is_sent_in_one_piece_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = watch_writes(monkeypatch)

    async def use(session: Session) -> None:
        sent.clear()
        going = session.begin("one")
        assert session.ask({"execute": "two"}, lambda reply: None)
        assert await going == "one"
        assert await session.execute("three") == "three"
        ours = [data for data in sent if b"execute" in data]
        assert [data.count(b"execute") for data in ours] == [2, 1]
        assert ours[0].index(b'"one"') < ours[0].index(b'"two"')

    talk(tmp_path, echo, use)


SAVE = {"job-id": "j", "tag": "t"}


def test_of_a_command_that_was_read_ahead_only_the_end_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = watch_writes(monkeypatch)
    seen: list[dict[str, Any]] = []

    def answering(commands: list[dict[str, Any]], say: Say) -> None:
        seen[:] = commands
        echo(commands, say)

    async def use(session: Session) -> None:
        session.read_ahead("save", SAVE)
        session.read_ahead("load", SAVE)  # one at a time
        await asyncio.sleep(0)
        sent.clear()
        assert await session.execute("save", {**SAVE, "devices": ["a"]}) == "save"
        assert len(sent[0]) < 40
        assert await session.execute("save", {**SAVE, "devices": ["b"]}) == "save"

    talk(tmp_path, answering, use)
    assert [message["arguments"] for message in seen] == [{**SAVE, "devices": [disk]} for disk in "ab"]


@pytest.mark.parametrize("comes", ["another", "other arguments", "asked", "begun"])
def test_what_was_read_ahead_is_refused_where_something_else_comes(tmp_path: Path, comes: str) -> None:
    seen: list[dict[str, Any]] = []

    def answering(commands: list[dict[str, Any]], say: Say) -> None:
        seen[:] = commands
        if "not-now" in commands[-1].get("arguments", {}):
            say({"error": {"class": "GenericError", "desc": "no"}, "id": commands[-1]["id"]})
        else:
            echo(commands, say)

    async def use(session: Session) -> None:
        session.read_ahead("save", SAVE)
        match comes:
            case "another":
                assert await session.execute("other") == "other"
            case "other arguments":
                assert await session.execute("save", {"tag": "t", "devices": []}) == "save"
            case "asked":
                assert session.ask({"execute": "other"}, lambda reply: None)
            case "begun":
                assert await session.begin("other") == "other"
        assert await session.execute("save", {**SAVE, "devices": ["a"]}) == "save"

    talk(tmp_path, answering, use)
    assert seen[0]["arguments"] == {**SAVE, "not-now": True}
    assert len(seen) == 3
    assert seen[2]["arguments"] == {**SAVE, "devices": ["a"]}


def test_what_was_read_ahead_is_nothing_where_the_connection_ends(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        with pytest.raises(QEMUGone):
            await session.execute("leave")
        await session.closed.wait()
        session.read_ahead("save", SAVE)
        with pytest.raises(QEMUGone):
            await session.execute("save", {**SAVE, "devices": ["a"]})

    talk(tmp_path, echo, use)
