"""Random streams into the framer, for a given time, with the standard library alone.  Not for: rules (unit tests).

    python tests/fuzz/fuzz_framer.py --seconds 60 [--seed 1]

Every stream is fed whole and in random pieces, under QEMU's limits or under small ones.  Wrong is: any exception, other
frames for other pieces, an error in other words than QEMU's, a value that Python's decoder sees and ours does not, a
value that doesn't survive writing and reading, memory that grows.  It prints what it did; where something was wrong,
what it was and the seed that shows it again, and then exits with 1.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from tests.fuzz.rounds import fuzz

from snaptree.server.encode import encode
from snaptree.server.framer import Frame, Framer, Garbage, Limits, Message
from snaptree.server.parser import parse_exactly
from snaptree.server.request import QMPError, check_request

GROWTH_MAX_KIB = 256 << 10
"""Far more than the streams here, which have kilobytes, may ever need."""

ATOMS = (
    *(bytes([byte]) for byte in b"{}[]:,\"'\\ \n\t\r-+.eE0159aZ%@\x00\x01\x1f\x7f\x80\xbf\xc0\xc3\xed\xf0\xfd\xfe\xff"),
    *(b"\\u", b"\\ud83c", b"\\udf89", b"\\u0000", b"\\ufffe", b"\\'", b"\xc0\x80", b"\xc3\xbc", b"\xed\xa0\x80"),
    *(b"\xf0\x9f\x8e\x89", b"\xf4\x90\x80\x80", b"\xef\xbf\xbf", b"\xef\xbb\xbf", b"true", b"false", b"null", b"NaN"),
    *(b"0e5", b"1e999", b"-0", b"18446744073709551616", b'"execute"', b'"arguments"', b'"id"', b'"exec-oob"'),
    *(
        b'{"execute": "query-status", "id": ',
        b"{'execute':'x'}",
        b'{"a": ',
        b"[1, [2, {'b': 3}]]",
        b"[" * 20,
        b"]" * 20,
    ),
)

ODD = (b"0e5", b"-0E1", b"NaN", b"-Infinity", b"01", b'"\\ud800"', b'"\xc0\x80"')
"""What Python's decoder and QEMU's see differently."""


def value(rng: random.Random, depth: int = 0) -> bytes:
    """Return the text of a JSON value, mostly."""
    kind = rng.random()
    if depth > 6 or kind < 0.5:
        return rng.choice(
            (b"1", b"-2.5e3", b'"x"', b"'y'", b"null", b'"\\u00fc\xc3\xbc"', b"0", b"1e400", b"9" * 30, *ODD)
        )
    space = rng.choice((b"", b"", b" ", b"\r\n"))
    if kind < 0.75:
        return b"[" + (space + b"," + space).join(value(rng, depth + 1) for _ in range(rng.randrange(4))) + space + b"]"
    keys = (b'"execute"', b'"id"', b"'arguments'", b'"a"', b'"b"', b"'c'")
    pairs = [rng.choice(keys) + space + b":" + value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return b"{" + (b"," + space).join(pairs) + b"}"


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` with a few bytes changed, lost, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0:
                found[place:place] = rng.choice(ATOMS)
            case 1:
                del found[place : place + rng.randrange(1, 5)]
            case 2:
                found[place : place + 1] = rng.randbytes(1)
            case 3:
                found[place:place] = found[place : place + rng.randrange(40)] * rng.randrange(1, 4)
            case _:
                del found[place:]
    return bytes(found)


def stream(rng: random.Random) -> bytes:
    """Return a stream of some messages and some of what is none."""
    parts = []
    for _ in range(rng.randrange(1, 6)):
        match rng.randrange(6):
            case 0:
                parts.append(rng.randbytes(rng.randrange(50)))
            case 1:
                parts.append(b"".join(rng.choice(ATOMS) for _ in range(rng.randrange(20))))
            case 2:
                parts.append(rng.choice(ATOMS) * rng.choice((2, 3, 20, 1100)))
            case 3:
                parts.append(mutated(rng, value(rng)))
            case _:
                parts.append(value(rng) + rng.choice((b"", b"\n", b"\r\n")))
    return b"".join(parts)


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut ``data`` anywhere."""
    size = rng.choice((1, 3, 17, 400))
    cuts = [0]
    while cuts[-1] < len(data):
        cuts.append(cuts[-1] + rng.randrange(1, size + 1))
    return [data[begin:end] for begin, end in itertools.pairwise(cuts)]


def frames_of(chunks: list[bytes], limits: Limits) -> list[Frame]:
    """Return what a framer makes of these chunks."""
    framer = Framer(limits)
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def wrong(rng: random.Random, did: Counter[str]) -> str | None:
    """Try one stream; return what is wrong."""
    data = stream(rng)
    limits = (
        Limits() if rng.random() < 0.6 else Limits(rng.randrange(1, 300), rng.randrange(1, 60), rng.randrange(1, 9))
    )
    frames = frames_of([data], limits)
    did["streams"] += 1
    did["bytes"] += len(data)
    if list(map(repr, frames_of(pieces(rng, data), limits))) != list(map(repr, frames)):
        return f"other pieces, other frames: {data!r} under {limits}"
    for frame in frames:
        if isinstance(frame, Garbage):
            did["garbage"] += 1
            if (
                not frame.desc.startswith(("JSON parse error, ", "JSON token ", "JSON nesting "))
                or len(frame.desc) > 1100
            ):
                return f"not QEMU's words: {frame.desc!r} about {data!r}"
            encode(frame.desc)
            continue
        did["messages"] += 1
        if repr(parse_exactly(frame.raw)) != repr(frame.value):
            return f"Python's decoder and ours differ: {frame!r}"
        again = Framer().feed(encode([frame.value]))
        if len(again) != 1 or not isinstance(again[0], Message) or repr(again[0].value) != repr([frame.value]):
            return f"written and read it is another: {frame!r} of {data!r}"
        try:
            check_request(frame.value)
            did["commands"] += 1
        except QMPError:
            pass
    return None


def main() -> int:
    """Run for the time given."""
    return fuzz("Feed random streams to the framer.", wrong, growth_max_kib=GROWTH_MAX_KIB)


if __name__ == "__main__":
    sys.exit(main())
