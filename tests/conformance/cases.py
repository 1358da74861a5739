"""What QEMU answers at a QMP socket, as a table: recorded from QEMU 7.2, the same on 10.0.  Not for: how it is played.

For ``qemu-system-x86_64 -machine none -display none -nodefaults -S``, and for a server that stands before a QEMU
without ``-name``.  All commands are harmless.  A reply is equal to another as Python's ``==`` sees it: 1 is 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Reply = dict[str, Any]

GENERIC = "GenericError"
NOT_FOUND = "CommandNotFound"
NAME = b'{"execute": "query-name"}'
OK: Reply = {"return": {}}


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    :param name: the rule that it shows.
    :param send: what the client sends.
    :param replies: all replies to it, in order.
    :param negotiated: the client has negotiated before.
    """

    name: str
    send: bytes
    replies: list[Reply]
    negotiated: bool = True


def ok(id: object) -> Reply:
    """Return a success with an id."""
    return {"return": {}, "id": id}


def error(desc: str, error_class: str = GENERIC, **id: object) -> Reply:
    """Return a failure, with or without an id."""
    return {"error": {"class": error_class, "desc": desc}, **id}


def no_json(words: str) -> Reply:
    """Return the failure of the JSON parser."""
    return error(f"JSON parse error, {words}")


NO_OBJECT = error("QMP input must be a JSON object")

NEGOTIATION = (
    Case(
        "before negotiation no command is found",
        NAME,
        [error("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND)],
        negotiated=False,
    ),
    Case(
        "before negotiation an unknown command is not found either",
        b'{"execute": "no-such-command", "id": 1}',
        [error("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND, id=1)],
        negotiated=False,
    ),
    Case(
        "before negotiation a wrong shape is named all the same",
        b'{"id": 1}',
        [error("QMP input lacks member 'execute'", id=1)],
        negotiated=False,
    ),
    Case("before negotiation no JSON is no JSON", b"[1 2]", [no_json("expected separator in list")], negotiated=False),
    Case("before negotiation a list is no command", b"[]", [NO_OBJECT], negotiated=False),
    Case(
        "negotiation returns nothing and the id", b'{"execute": "qmp_capabilities", "id": 7}', [ok(7)], negotiated=False
    ),
    Case(
        "nothing need be enabled",
        b'{"execute": "qmp_capabilities", "arguments": {"enable": []}}',
        [OK],
        negotiated=False,
    ),
    Case(
        "negotiation checks its arguments",
        b'{"execute": "qmp_capabilities", "arguments": {"zz": 1}}',
        [error("Parameter 'zz' is unexpected")],
        negotiated=False,
    ),
    Case(
        "negotiation checks the type of what is enabled",
        b'{"execute": "qmp_capabilities", "arguments": {"enable": "x"}}',
        [error("Invalid parameter type for 'enable', expected: array")],
        negotiated=False,
    ),
    Case(
        "negotiation checks the type of each capability",
        b'{"execute": "qmp_capabilities", "arguments": {"enable": [1]}}',
        [error("Invalid parameter type for 'enable[0]', expected: string")],
        negotiated=False,
    ),
    Case(
        "an unknown capability is refused",
        b'{"execute": "qmp_capabilities", "arguments": {"enable": ["no-such"]}}',
        [error("Parameter 'null' does not accept value 'no-such'")],
        negotiated=False,
    ),
    Case(
        "a failed negotiation leaves the client where it was",
        b'{"execute": "qmp_capabilities", "arguments": {"zz": 1}}' + NAME,
        [
            error("Parameter 'zz' is unexpected"),
            error("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND),
        ],
        negotiated=False,
    ),
    Case(
        "a command may follow negotiation at once",
        b'{"execute": "qmp_capabilities"}' + NAME,
        [OK, OK],
        negotiated=False,
    ),
    Case(
        "negotiation is done once",
        b'{"execute": "qmp_capabilities", "id": 1}',
        [error("Capabilities negotiation is already complete, command ignored", NOT_FOUND, id=1)],
    ),
)

FRAMING = (
    Case("a message needs no line end", NAME, [OK]),
    Case("two messages need nothing between them", NAME + NAME, [OK, OK]),
    Case("a message may have many lines", b'{\r\n\t"execute"\n:\n"query-name"\r\n}\r\n', [OK]),
    Case("single quotes are quotes", b"{'execute': 'query-name', 'id': 'a\"b'}", [ok('a"b')]),
    Case("brackets in strings are none", b'{"execute": "query-name", "id": "}]{[\\"}"}', [ok('}]{["}')]),
    Case(
        "a failing command does not stop the next",
        b'{"execute": "x"}' + NAME,
        [error("The command x has not been found", NOT_FOUND), OK],
    ),
    Case("white space alone is nothing", b" \t\r\n\n", []),
    Case("FF resets in the middle of an object", b'{"execute": \xff' + NAME, [no_json("stray '�'"), OK]),
    Case("FF resets in the middle of a string", b'{"execute": "query\xff' + NAME, [no_json("stray '\"query�'"), OK]),
    Case("each FF is an error of its own", b"\xff\xff" + NAME, [no_json("stray '�'"), no_json("stray '�'"), OK]),
    Case("FE resets too", b'{"a": \xfe' + NAME, [no_json("stray '�'"), OK]),
    Case("a control byte resets too", b'{"a": \x01' + NAME, [no_json("stray '\x01'"), OK]),
    Case("a line end in a string resets too", b'{"a": "b\n' + NAME, [no_json("stray '\"b\n'"), OK]),
    Case("a closing bracket too many is one error", b"}" + NAME, [no_json("expecting value"), OK]),
    Case("crossed brackets end a message", b'{"a": [}]' + NAME, [no_json("expecting value"), OK]),
    Case("after an error all is skipped up to a bracket", b'@ "x" 1\t2 ' + NAME, [no_json("stray '@'"), OK]),
    Case("after an error all is skipped up to a line end", b'@ "x" \n1 ' + NAME, [no_json("stray '@'"), NO_OBJECT, OK]),
    Case(
        "after an error a comma is where it goes on",
        b"@ x, " + NAME,
        [no_json("stray '@'"), no_json("expecting value"), OK],
    ),
    Case("a byte order mark is an error", b"\xef\xbb\xbf" + NAME, [no_json("stray '�'"), OK]),
    Case("a comment is an error", b"# comment\n" + NAME, [no_json("stray '#'"), OK]),
)

VALUES = (
    Case("a scalar is no command", b'1 "x" true null ', [NO_OBJECT, NO_OBJECT, NO_OBJECT, NO_OBJECT]),
    Case("a list is no command", b'[{"execute": "query-name"}]', [NO_OBJECT]),
    Case("a comma between messages is an error", NAME + b"," + NAME, [OK, no_json("expecting value"), OK]),
    Case(
        "any value is an id and comes back",
        b'{"execute": "query-name", "id": {"a": [1, -2, 0.5, "x", true, null, {}]}}',
        [ok({"a": [1, -2, 0.5, "x", True, None, {}]})],
    ),
    Case("null is an id", b'{"execute": "query-name", "id": null}', [ok(None)]),
    Case(
        "an error gives the id back too",
        b'{"execute": "x", "id": "y"}',
        [error("The command x has not been found", NOT_FOUND, id="y")],
    ),
    Case(
        "64 bits come back exactly",
        b'{"execute": "query-name", "id": [18446744073709551615, -9223372036854775808, 9007199254740993]}',
        [ok([18446744073709551615, -9223372036854775808, 9007199254740993])],
    ),
    Case(
        "larger integers come back too, here as doubles",
        b'{"execute": "query-name", "id": [100000000000000000000, -18446744073709551616]}',
        [ok([1e20, -1.8446744073709552e19])],
    ),
    Case(
        "doubles come back",
        b'{"execute": "query-name", "id": [1e5, 1E+2, 0.1, -2.5e-3, 1.0]}',
        [ok([100000, 100, 0.1, -0.0025, 1])],
    ),
    Case(
        "strings come back, however they were escaped",
        b'{"execute": "query-name", '
        b'"id": "\\u00fc\xc3\xbc\\ud83c\\udf89\xf0\x9f\x8e\x89\\/\\\'\\n\\u0000\xc0\x80\x7f%d"}',
        [ok("üü🎉🎉/'\n\x00\x00\x7f%d")],
    ),
    Case("an id is given back for a wrong shape", b'{"id": [1]}', [error("QMP input lacks member 'execute'", id=[1])]),
    Case("a message may be nested 1024 deep", b"[" * 1024 + b"]" * 1024, [NO_OBJECT]),
    Case(
        "a message may not be nested deeper",
        b"[" * 1025 + b"]" + NAME,
        [error("JSON nesting depth limit exceeded"), no_json("expecting value"), OK],
    ),
)

NO_JSON = (
    Case("NaN is no JSON", b"[NaN]", [no_json("stray 'N'"), no_json("expecting value")]),
    Case("Infinity is no JSON", b"[-Infinity]", [no_json("stray '-I'"), no_json("expecting value")]),
    Case("an unknown word is no JSON", b"[nan]", [no_json("invalid keyword 'nan'")]),
    Case(
        "a duplicate key is no JSON", b'{"execute": "query-name", "execute": "query-name"}', [no_json("duplicate key")]
    ),
    Case("a trailing comma is no JSON", b'{"a": 1,}', [no_json("expecting value")]),
    Case("a missing comma is no JSON", b'{"a": 1 "b": 2}', [no_json("expected separator in dict")]),
    Case("a missing comma in a list is no JSON", b"[1 2]", [no_json("expected separator in list")]),
    Case("a missing colon is no JSON", b'{"a" 1}', [no_json("missing : in object pair")]),
    Case("a missing value is no JSON", b'{"a":}', [no_json("expecting value")]),
    Case("a key is a string", b"{1: 2}", [no_json("key is not a string in object")]),
    Case("a leading zero is no JSON", b"[01]", [no_json("stray '01'"), no_json("expecting value")]),
    Case("a plus sign is no JSON", b"[+1]", [no_json("stray '+'"), no_json("expecting value")]),
    Case("a number ends with a digit", b"[1.]", [no_json("stray '1.]'")]),
    Case("an exponent does not follow a bare zero", b"[0e5]", [no_json("expected separator in list")]),
    Case("interpolation is not for clients", b"[%d]", [no_json("stray '%'"), no_json("expecting value")]),
    Case("an unknown escape is no JSON", b'["\\x"]', [no_json("invalid escape sequence in string")]),
    Case("four hexadecimal digits make an escape", b'["\\u12"]', [no_json('\\u12" is not a valid Unicode character')]),
    Case("a lone surrogate is no character", b'["\\ud800"]', [no_json("\\ud800 is not a valid Unicode character")]),
    Case("surrogates have an order", b'["\\udc00\\ud800"]', [no_json("\\udc00 is not a valid Unicode character")]),
    Case("a noncharacter is no character", b'["\\uffff"]', [no_json("\\uffff is not a valid Unicode character")]),
    Case(
        "a noncharacter is no character in UTF-8 either",
        b'["\xef\xbf\xbf"]',
        [no_json("invalid UTF-8 sequence in string")],
    ),
    Case("invalid UTF-8 is no JSON", b'["\x80"]', [no_json("invalid UTF-8 sequence in string")]),
    Case("overlong UTF-8 is no JSON", b'["\xc1\x81"]', [no_json("invalid UTF-8 sequence in string")]),
    Case("a surrogate in UTF-8 is no JSON", b'["\xed\xa0\x80"]', [no_json("invalid UTF-8 sequence in string")]),
    Case(
        "what is quoted in an error is made valid",
        b'{"x\x80\xe0\xa0 \xed\xa0\x80\xf8\x01' + NAME,
        [no_json("stray '\"x�� ��\x01'"), OK],
    ),
)

SHAPES = (
    Case("an object without execute is no command", b"{}", [error("QMP input lacks member 'execute'")]),
    Case("a command is named by a string", b'{"execute": 1}', [error("QMP input member 'execute' must be a string")]),
    Case(
        "arguments are an object",
        b'{"execute": "query-name", "arguments": []}',
        [error("QMP input member 'arguments' must be an object")],
    ),
    Case(
        "null is no arguments",
        b'{"execute": "query-name", "arguments": null}',
        [error("QMP input member 'arguments' must be an object")],
    ),
    Case(
        "an unknown member is named",
        b'{"execute": "query-name", "zz": 1, "id": 3}',
        [error("QMP input member 'zz' is unexpected", id=3)],
    ),
    Case(
        "of several unknown members the one is named that QEMU finds first",
        b'{"execute": 1, "foo": 2, "arguments": 3, "bar": 4}',
        [error("QMP input member 'bar' is unexpected")],
    ),
    Case(
        "out-of-band execution needs to be enabled",
        b'{"exec-oob": "query-name"}',
        [error("QMP input member 'exec-oob' is unexpected")],
    ),
)

COMMANDS = (
    Case(
        "an unknown command is not found",
        b'{"execute": "no-such-command"}',
        [error("The command no-such-command has not been found", NOT_FOUND)],
    ),
    Case(
        "a command is looked for before its arguments",
        b'{"execute": "no-such-command", "arguments": {"zz": 1}}',
        [error("The command no-such-command has not been found", NOT_FOUND)],
    ),
    Case(
        "an unknown argument is named",
        b'{"execute": "query-name", "arguments": {"zz": 1}}',
        [error("Parameter 'zz' is unexpected")],
    ),
    Case("a missing argument is named", b'{"execute": "chardev-remove"}', [error("Parameter 'id' is missing")]),
    Case(
        "a missing argument goes before an unknown one",
        b'{"execute": "chardev-remove", "arguments": {"zz": 1}}',
        [error("Parameter 'id' is missing")],
    ),
    Case(
        "a wrong type goes before an unknown argument",
        b'{"execute": "chardev-remove", "arguments": {"id": 1, "zz": 1}}',
        [error("Invalid parameter type for 'id', expected: string")],
    ),
    Case(
        "null is no string",
        b'{"execute": "chardev-remove", "arguments": {"id": null}}',
        [error("Invalid parameter type for 'id', expected: string")],
    ),
    Case(
        "a double is no integer",
        b'{"execute": "ringbuf-read", "arguments": {"device": "x", "size": 1.0}}',
        [error("Invalid parameter type for 'size', expected: integer")],
    ),
    Case(
        "an integer has 63 bits",
        b'{"execute": "ringbuf-read", "arguments": {"device": "x", "size": 9223372036854775808}}',
        [error("Invalid parameter type for 'size', expected: integer")],
    ),
    Case(
        "a boolean is no integer",
        b'{"execute": "ringbuf-read", "arguments": {"device": "x", "size": true}}',
        [error("Invalid parameter type for 'size', expected: integer")],
    ),
    Case(
        "a number is no boolean",
        b'{"execute": "qom-list-types", "arguments": {"implements": "x", "abstract": 1}}',
        [error("Invalid parameter type for 'abstract', expected: boolean")],
    ),
    Case(
        "a failure has QEMU's words",
        b'{"execute": "chardev-remove", "arguments": {"id": "no-such"}}',
        [error("Chardev 'no-such' not found")],
    ),
)

CASES = (*NEGOTIATION, *FRAMING, *VALUES, *NO_JSON, *SHAPES, *COMMANDS)
