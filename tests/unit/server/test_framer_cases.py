"""Framer, request and encoder together answer as real QEMU did, as far as that needs no QEMU."""

from __future__ import annotations

import json

import pytest
from tests.conformance.cases import FRAMING, GENERIC, NO_JSON, NOT_FOUND, SHAPES, VALUES, Case, Reply

from snaptree.server.encode import encode
from snaptree.server.framer import Framer, Garbage
from snaptree.server.request import QMPError, check_request


def answers(stream: bytes) -> list[Reply]:
    replies: list[Reply] = []
    for frame in Framer().feed(stream):
        if isinstance(frame, Garbage):
            replies.append({"error": {"class": GENERIC, "desc": frame.desc}})
            continue
        try:
            request = check_request(frame.value)
        except QMPError as error:
            reply: Reply = {"error": {"class": error.error_class, "desc": error.desc}}
            replies.append({**reply, "id": error.id} if error.id_present else reply)
            continue
        reply = {"return": {}}
        if request.command != "query-name":
            reply = {"error": {"class": NOT_FOUND, "desc": f"The command {request.command} has not been found"}}
        replies.append({**reply, "id": request.id} if request.id_present else reply)
    return [json.loads(encode(reply)) for reply in replies]


@pytest.mark.parametrize("case", [*FRAMING, *VALUES, *NO_JSON, *SHAPES], ids=lambda case: case.name.replace(" ", "-"))
def test_streams_are_answered_as_by_qemu(case: Case) -> None:
    assert answers(case.send + b"\n") == case.replies
