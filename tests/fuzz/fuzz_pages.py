"""Hostile page stores, and hostile tags, into what reads them, for a given time.  Not for: rules (unit tests).

    python tests/fuzz/fuzz_pages.py --seconds 60 [--seed 1]

A small store is written, then its files are changed: bytes flipped, numbers set to hostile values (with and without the
checksum made right again), pieces cut out or put in, files lost, doubled or given another's name.  Then all of it is
read, verified, and deleted.  Wrong is: any error that is not ours, a page that is not what was written and is not
called damaged (where no checksum was made right for it), more than two seconds, memory that grows.  A tag is cut,
stretched and mixed; wrong is any error, a tag of ours that is read as another, a control character in what is printed.
It prints what it did; where something was wrong, what it was and the seed that shows it again, and then exits with 1.
"""

from __future__ import annotations

import random
import re
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np
from tests.framework.pagestores import Model, content_of, never_synced, pages_of, read_all, sid
from tests.fuzz.rounds import fuzz

from snaptree.memory.pages import RAMBlock
from snaptree.memory.store import PageStore
from snaptree.model.errors import PageStoreError
from snaptree.model.names import printable
from snaptree.model.tags import format_tag, parse_tag

GROWTH_MAX_KIB = 256 << 10
STORE_MAX_S = 2.0
TAGS = 50
NUMBERS = (0, 1, 2, 7, 255, 4095, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
PIECES = ("a", "@", "^", "-", "\x1b[31m", "\n", "\0", "ü", "\udcff", "\u202e", "1", sid(1), sid(2), "x" * 130, " ", "/")


def make(directory: Path) -> Model:
    """Write the store that every round begins with."""
    model = Model((RAMBlock("pc.ram", 64 << 12),))
    with never_synced():
        store = PageStore.open(directory, clean=True)
        p = pages_of(range(40), 45, 50)
        model.create(store, sid(1), None, (p, 1 + p % 9))
        p = pages_of(range(10, 20), 55)
        model.create(store, sid(2), sid(1), (p, 20 + p % 9))
        p = pages_of(range(15, 25), 58)
        model.create(store, sid(3), sid(2), (p, 40 + p % 9))
        store.close()
    return model


def hurt(rng: random.Random, directory: Path) -> bool:
    """Change one file; say whether its checksum may have been made right again."""
    path = rng.choice(sorted(directory.iterdir()))
    data = bytearray(path.read_bytes() or b"\0")
    place = rng.randrange(min(len(data), rng.choice((64, 4096, len(data)))))
    match rng.randrange(9):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1 | 2:
            width = rng.choice("BHIQ")
            value = rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(width)) - 1)
            place -= place % struct.calcsize(width)
            packed = struct.pack("<" + width, value)
            data[place : place + len(packed)] = packed
        case 3:
            del data[place:]
        case 4:
            del data[place : place + rng.randrange(1, 5000)]
        case 5:
            data[place:place] = rng.randbytes(rng.choice((1, 8, 4096)))
        case 6:
            path.unlink()
            return False
        case 7:
            data = bytearray(rng.choice(sorted(directory.iterdir())).read_bytes())
        case _:
            # A header as somebody would write it who knows the checksum.
            for end in range(16, min(len(data) - 3, 512), 4):
                if struct.unpack_from("<I", data, end)[0] == zlib.crc32(data[:end]):
                    data[rng.randrange(4, end)] = rng.randrange(256)
                    struct.pack_into("<I", data, end, zlib.crc32(data[:end]))
                    path.write_bytes(data)
                    return True
            data[place] ^= 0xFF
    path.write_bytes(data)
    return False


def read_everything(directory: Path, model: Model, did: Counter[str], *, forged: bool) -> str | None:
    """Use a store in every way; return what is wrong."""
    store = PageStore.open(directory, clean=False)
    try:
        for id in sorted(store.ids()):
            try:
                damaged = {page for d in store.verify(id, content=True) for page in range(d.page, d.page + d.count)}
                content = read_all(store, id)
            except PageStoreError as error:
                did["errors"] += 1
                if CONTROL.search(str(error)):
                    return f"a control character in {error!s}"
                continue
            expected = content_of(model.snapshots[id])
            if forged and content.shape != expected.shape:
                did["forged sizes"] += 1  # who knows the checksum may say that RAM is larger or smaller
                continue
            wrong = np.flatnonzero((content != expected).any(axis=1))
            if len(wrong) and not forged and not damaged:
                return f"pages {wrong[:5]} of {id} are wrong, and nothing says so"
            did["snapshots read"] += 1
        for look in (store.unreferenced, store.usage):
            try:
                look()
            except PageStoreError:
                did["errors"] += 1
    finally:
        store.segments.close()
    with never_synced():
        try:
            store = PageStore.open(directory, clean=True)
        except PageStoreError:
            did["errors"] += 1
            return None
        for id in sorted(store.ids()):
            try:
                store.delete(id)
                did["deletes"] += 1
            except PageStoreError:
                did["errors"] += 1
        store.segments.close()
    return None


def wrong_tag(rng: random.Random) -> str | None:
    """Try one tag; return what is wrong."""
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))
    if rng.random() < 0.5:
        whole = format_tag("name", sid(rng.randrange(5)), sid(rng.randrange(5)))
        at = rng.randrange(len(whole) + 1)
        text = whole[:at] + rng.choice(("", text)) + whole[at + rng.randrange(2) :]
    found = parse_tag(text)
    if found is not None and format_tag(found.name, found.id, found.parent_id) != text:
        return f"{text!r} is read as {found}"
    if CONTROL.search(printable(text, 255)):
        return f"{text!r} is printed raw"
    return None


def wrong(rng: random.Random, whole: Path, copy: Path, model: Model, did: Counter[str]) -> str | None:
    """Try one store and some tags; return what is wrong."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    start = time.process_time()
    forged = False
    for _ in range(rng.choice((1, 1, 2, 3))):
        forged = hurt(rng, copy) or forged
    fault = read_everything(copy, model, did, forged=forged)
    fault = fault or next(filter(None, (wrong_tag(rng) for _ in range(TAGS))), None)
    did["stores"] += 1
    did["tags"] += TAGS
    took = time.process_time() - start
    return f"it took {took:.1f} s" if fault is None and took > STORE_MAX_S else fault


def main() -> int:
    """Run for the time given."""
    with tempfile.TemporaryDirectory(prefix="fuzz-pages-") as folder:
        whole, copy = Path(folder) / "whole", Path(folder) / "copy"
        model = make(whole)
        return fuzz(
            "Feed hostile page stores and tags to what reads them.",
            lambda rng, did: wrong(rng, whole, copy, model, did),
            growth_max_kib=GROWTH_MAX_KIB,
        )


if __name__ == "__main__":
    sys.exit(main())
