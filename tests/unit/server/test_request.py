"""A message's shape and arguments are checked in QEMU's order and words (measured on QEMU 7.2)."""

from __future__ import annotations

from typing import Any

import pytest

from snaptree.server.request import Argument, QMPError, Request, check_request, read_arguments


def refused(value: object) -> QMPError:
    with pytest.raises(QMPError) as caught:
        check_request(value)
    assert caught.value.error_class == "GenericError"
    return caught.value


def test_a_command_is_its_name_its_arguments_and_its_id() -> None:
    assert check_request({"execute": "x"}) == Request("x", {}, False, None)
    assert check_request({"id": [None], "arguments": {"a": 1}, "execute": "x"}) == Request("x", {"a": 1}, True, [None])


def test_null_is_an_id() -> None:
    assert check_request({"execute": "x", "id": None}).id_present


@pytest.mark.parametrize("value", [[], [{"execute": "x"}], "x", 1, 1.5, True, None])
def test_only_an_object_is_a_command(value: object) -> None:
    error = refused(value)
    assert error.desc == "QMP input must be a JSON object"
    assert not error.id_present


@pytest.mark.parametrize(
    ("value", "desc"),
    [
        ({}, "QMP input lacks member 'execute'"),
        ({"arguments": {}}, "QMP input lacks member 'execute'"),
        ({"execute": 1}, "QMP input member 'execute' must be a string"),
        ({"execute": None}, "QMP input member 'execute' must be a string"),
        ({"execute": "x", "arguments": []}, "QMP input member 'arguments' must be an object"),
        ({"execute": "x", "arguments": None}, "QMP input member 'arguments' must be an object"),
        ({"execute": "x", "zz": 1}, "QMP input member 'zz' is unexpected"),
        ({"exec-oob": "x"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "x", "exec-oob": "x"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "x", "a\0\n": 1}, "QMP input member 'a\0\n' is unexpected"),
        # Of several the one that QEMU meets first, by its hash table.
        ({"execute": 1, "foo": 2, "arguments": 3, "exec-oob": 3}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": 1, "arguments": 3}, "QMP input member 'execute' must be a string"),
    ],
)
def test_a_wrong_shape_is_named_in_qemu_s_words_and_the_id_comes_back(value: dict[str, Any], desc: str) -> None:
    error = refused(value)
    assert (error.desc, error.id_present) == (desc, False)
    error = refused({**value, "id": 7})
    assert (error.desc, error.id_present, error.id) == (desc, True, 7)


SPEC = {
    "name": Argument("str"),
    "wait": Argument("bool", optional=True),
    "limit": Argument("int", optional=True),
    "share": Argument("number", optional=True),
    "devices": Argument("[str]", optional=True),
    "what": Argument("any", optional=True),
}


def test_arguments_that_fit_are_returned() -> None:
    full = {"name": "a", "wait": False, "limit": -(2**63), "share": 1, "devices": ["x"], "what": None}
    assert read_arguments(full, SPEC) == full
    assert read_arguments({"name": "", "share": 0.5, "devices": []}, SPEC) == {"name": "", "share": 0.5, "devices": []}


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({}, "Parameter 'name' is missing"),
        ({"zz": 1}, "Parameter 'name' is missing"),
        ({"name": "a", "zz": 1}, "Parameter 'zz' is unexpected"),
        ({"name": "a", "": 1}, "Parameter '' is unexpected"),
        ({"name": None}, "Invalid parameter type for 'name', expected: string"),
        ({"name": 1, "zz": 1}, "Invalid parameter type for 'name', expected: string"),
        ({"name": "a", "wait": 1}, "Invalid parameter type for 'wait', expected: boolean"),
        ({"name": "a", "wait": None}, "Invalid parameter type for 'wait', expected: boolean"),
        ({"name": "a", "limit": True}, "Invalid parameter type for 'limit', expected: integer"),
        ({"name": "a", "limit": 1.0}, "Invalid parameter type for 'limit', expected: integer"),
        ({"name": "a", "limit": 2**63}, "Invalid parameter type for 'limit', expected: integer"),
        ({"name": "a", "share": False}, "Invalid parameter type for 'share', expected: number"),
        ({"name": "a", "devices": "x"}, "Invalid parameter type for 'devices', expected: array"),
        ({"name": "a", "devices": ["x", 1]}, "Invalid parameter type for 'devices[1]', expected: string"),
    ],
)
def test_arguments_that_do_not_fit_are_named_in_qemu_s_words(arguments: dict[str, Any], desc: str) -> None:
    with pytest.raises(QMPError) as caught:
        read_arguments(arguments, SPEC)
    assert (caught.value.error_class, caught.value.desc) == ("GenericError", desc)
