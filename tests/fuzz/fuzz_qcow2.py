"""Hostile qcow2 images into the reader, for a given time, with the standard library alone.  Not for: rules.

    python tests/fuzz/fuzz_qcow2.py --seconds 60 [--seed 1]

It begins with a corpus that qemu-img makes, in all variants; of each, what is read has to be what qemu-img says in its
own JSON.  Then bytes are flipped, numbers in the header and the tables are set to hostile values, pieces are cut out or
put in, and everything that a snapshot offers is read.  Wrong is: any error that is not ours, an error with a character
that a terminal would act upon, an image that takes longer than two seconds, memory that grows.  It prints what it did;
where something was wrong, what it was and the seed that shows it again, and then exits with 1.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from tests.fuzz.rounds import fuzz

from snaptree.model.errors import ImageError
from snaptree.qcow2.image import Image

GROWTH_MAX_KIB = 512 << 10
"""More than any image here, which has at most some MiB of tables, may ever need."""
IMAGE_MAX_S = 2.0
FILE_MAX = 16 << 20

VARIANTS = (
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "compat=1.1",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "compression_type=zstd",
    "lazy_refcounts=on",
    "refcount_bits=64",
    "preallocation=metadata",
    "data_file={folder}/data-{number},data_file_raw=on",
    "encrypt.format=aes,encrypt.key-secret=key",
)
SECRET = ("--object", "secret,id=key,data=abcd1234")
TAGS = ("plain", "1", "ev\x1b[31mil\n", "ünï", "x" * 255, "s@3fab28c9-a6bd-4659-b9bc-683780d8a2d5^" + "0" * 8)
NUMBERS = (0, 1, 2, 7, 8, 9, 40, 255, 511, 512, 4095, 65535, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
LARGE = (*NUMBERS, 2**40, 2**56, 2**62, 2**63 - 1, 2**63, 2**64 - 512, 2**64 - 1)
STATE = (
    b"QEVM\0\0\0\3\7\0\0\0\2pc\5\x1aconfiguration/capabilities\0\0\0\1\0\0\0\1\x0fx-ignore-shared"
    b"\1\0\0\0\0\3ram\0\0\0\0\0\0\0\4\0\0\0\0\1\0\0\4\6pc.ram\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"
)


def run(*argv: str | Path) -> str:
    """Run qemu-img."""
    return subprocess.run(["qemu-img", *map(str, argv)], capture_output=True, text=True, check=True).stdout


def make_corpus(folder: Path) -> list[Path]:
    """Make an image of every variant, with snapshots where it can have any, and one with a backing file."""
    found = []
    run("create", "-q", "-f", "qcow2", folder / "base", "1M")
    for number, options in enumerate((*VARIANTS, "backing")):
        path = folder / f"image-{number}"
        words = ["-o", options.format(folder=folder, number=number)]
        if options == "backing":
            words = ["-b", str(folder / "base"), "-F", "qcow2"]
        secret = SECRET if "encrypt" in options else ()
        run("create", "-q", *secret, "-f", "qcow2", *words, path, "1M")
        opening = (*secret, "--image-opts", f"driver=qcow2,encrypt.key-secret=key,file.filename={path}")
        if "data_file" not in options:
            for tag in TAGS:
                run("snapshot", "-c", tag, *(opening if secret else (path,)))
        found.append(path)
    compressed = folder / "compressed"
    (folder / "raw").write_bytes(STATE + bytes(range(256)) * 4096)
    run("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", folder / "raw", compressed)
    run("snapshot", "-c", "one", compressed)
    return [*found, compressed]


def unlike_qemu_img(path: Path) -> str | None:
    """Compare an image's list with qemu-img's own."""
    info: dict[str, Any] = json.loads(run("info", "--output=json", path))
    expected = [
        (s["id"], s["name"], s["date-sec"] * 10**9 + s["date-nsec"], s["vm-state-size"], s["vm-clock-sec"])
        for s in info.get("snapshots", [])
    ]
    with Image.open(path) as image:
        found = [(s.qemu_id, s.tag, s.date_ns, s.vm_state_size, s.vm_clock_ns // 10**9) for s in image.snapshots()]
        header = image.header
    facts = (header.size, header.cluster_size, header.backing_file, bool(header.crypt_method))
    said = (
        info["virtual-size"],
        info["cluster-size"],
        info.get("backing-filename"),
        info.get("encrypted", False),
    )
    if expected != found or facts != said:
        return f"{path.name}: qemu-img says {expected}, {said}; we read {found}, {facts}"
    return None


def places(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield where numbers stand in the header and in the snapshot table, each with its struct format."""
    yield from ((at, ">Q") for at in (8, 24, 40, 48, 64, 72, 80, 88))
    yield from ((at, ">I") for at in (4, 16, 20, 32, 36, 56, 60, 96, 100, 104, 108, 112, 116))
    if len(data) < 72:
        return
    count, table = struct.unpack_from(">IQ", data, 60)
    for _ in range(min(count, 16)):
        if table + 64 > len(data):
            return
        yield from ((table + at, ">Q") for at in (0, 24, 40, 48, 56))
        yield from ((table + at, ">I") for at in (8, 16, 20, 32, 36))
        yield from ((table + at, ">H") for at in (12, 14))
        id_bytes, tag_bytes, extra = (
            *struct.unpack_from(">HH", data, table + 12),
            *struct.unpack_from(">I", data, table + 36),
        )
        table += 40 + extra + id_bytes + tag_bytes + 7 & ~7


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """Return a hostile image."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                at, form = rng.choice(list(places(bytes(data))))
                if at + struct.calcsize(form) <= len(data):
                    value = rng.choice(LARGE) if rng.random() < 0.8 else rng.randrange(2**64)
                    struct.pack_into(form, data, at, value & 2 ** (8 * struct.calcsize(form)) - 1)
            case 4:
                if data:
                    data[rng.randrange(len(data))] = rng.randrange(256)
            case 5:
                if data:
                    at = rng.randrange(min(len(data), 4096))
                    data[at : at + 8] = rng.randbytes(8)
            case 6:
                del data[rng.randrange(len(data) + 1) :]
            case _:
                # A stream of VM state wherever an L2 table may point to; entries that point anywhere.
                at = rng.randrange(max(1, len(data)) // 512 + 1) * 512
                piece = (
                    STATE
                    if rng.random() < 0.5
                    else b"".join(
                        struct.pack(">Q", rng.choice((0, 1 << 62, 1 << 63)) | rng.randrange(0, 1 << 24, 512))
                        for _ in range(64)
                    )
                )
                data[at : at + len(piece)] = piece
    return bytes(data[:FILE_MAX])


def read_all(path: Path, did: Counter[str]) -> None:
    """Read everything that an image offers.

    :raises ImageError: where it is hostile.
    """
    with Image.open(path) as image:
        did["headers"] += 1
        found = image.snapshots()
        did["tables"] += 1
        did["entries"] += len(found)
        refused: ImageError | None = None
        for snapshot in found[:8]:
            for read in (image.vm_state_head, image.is_at, lambda s: image.read_vm_state(s, 0, 1 << 20)):
                try:
                    read(snapshot)
                    did["parts"] += 1
                except ImageError as error:
                    refused = error
        if refused is not None:
            raise refused


def wrong(rng: random.Random, corpus: list[bytes], path: Path, did: Counter[str]) -> str | None:
    """Try one image; return what is wrong."""
    data = mutated(rng, rng.choice(corpus))
    path.write_bytes(data)
    if rng.random() < 0.2:
        os.truncate(path, 2**40)  # sparse: what lies behind the end is there, and zero
    did["images"] += 1
    began = time.thread_time()
    try:
        read_all(path, did)
    except ImageError as error:
        did["refused"] += 1
        if not str(error).isprintable():
            return f"an error that a terminal would act upon: {error!r}"
    took = time.thread_time() - began
    return f"it took {took:.1f} s" if took > IMAGE_MAX_S else None


def main() -> int:
    """Run for the time given."""
    with tempfile.TemporaryDirectory(prefix="snaptree-fuzz-") as folder:
        paths = make_corpus(Path(folder))
        for path in paths:
            if fault := unlike_qemu_img(path):
                print(fault)
                return 1
        corpus = [data for path in paths if len(data := path.read_bytes()) <= FILE_MAX]
        victim = Path(folder) / "victim"
        return fuzz(
            "Feed hostile images to the qcow2 reader.",
            lambda rng, did: wrong(rng, corpus, victim, did),
            growth_max_kib=GROWTH_MAX_KIB,
            said=f"{len(paths)} images are as qemu-img has them; ",
        )


if __name__ == "__main__":
    sys.exit(main())
