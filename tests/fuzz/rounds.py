"""The rounds of a fuzzer: seed after seed, for a given time, until something is wrong.  Not for: what a round does."""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable

Round = Callable[[random.Random, Counter[str]], str | None]
"""Does one round, all of whose chances come from what it is given, counts what it did, and returns what is wrong."""


def fuzz(description: str, one_round: Round, *, growth_max_kib: int, said: str = "") -> int:
    """Run rounds as the command line wants it, and print what they did, or what is wrong; return the exit code.

    :param description: of the fuzzer, for its help.
    :param growth_max_kib: by how much memory may grow in all rounds together.
    :param said: what is printed before the figures.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="the first round's; rounds count on from it")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    first, did = seed, Counter[str]()
    before_kib = _used_kib()
    began = time.monotonic()
    while time.monotonic() - began < args.seconds:
        try:
            fault = one_round(random.Random(seed), did)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        if fault is None and _used_kib() - before_kib > growth_max_kib:
            fault = f"memory grew from {before_kib} to {_used_kib()} KiB"
        if fault is not None:
            print(f"seed {seed}: {fault}\nagain: python {sys.argv[0]} --seconds 1 --seed {seed}")
            return 1
        seed += 1
    numbers = ", ".join(f"{count} {what}" for what, count in did.items())
    print(f"{said}seeds {first} to {seed - 1}, {args.seconds:g} s: {numbers}; nothing wrong")
    return 0


def _used_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
