"""Listing the snapshots of 1,000 images of 10 snapshots each, beside `qemu-img info`, a process each.

Not for: writing images.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snaptree.qcow2.image import list_snapshots

IMAGES = 1000
SNAPSHOTS = 10
ROUNDS = 5
SAMPLE = 50
"""Images that qemu-img reads; all of them would take half a minute."""


def measure() -> Iterator[dict[str, Any]]:
    """Yield seconds for all images: ours, measured; qemu-img's, from a sample."""
    folder = Path(tempfile.mkdtemp(prefix="snaptree-bench-"))
    try:
        paths = _make(folder)
        ours = statistics.median(_timed(paths) for _ in range(ROUNDS))
        start = time.perf_counter()
        for path in paths[:SAMPLE]:
            done = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True, check=True)
            assert len(json.loads(done.stdout)["snapshots"]) == SNAPSHOTS
        peer = (time.perf_counter() - start) / SAMPLE * IMAGES
    finally:
        shutil.rmtree(folder)
    yield {
        "images": IMAGES,
        "snapshots_each": SNAPSHOTS,
        "listed_s": ours,
        "listed_allowed_s": 1,
        "qemu_img_info_s": peer,
    }


def _make(folder: Path) -> list[Path]:
    first = folder / "first"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", first, "10G"], check=True)
    for number in range(SNAPSHOTS):
        tag = f"snapshot-{number}@3fab28c9-a6bd-4659-b9bc-683780d8a2d{number}^00000000-0000-0000-0000-000000000000"
        subprocess.run(["qemu-img", "snapshot", "-c", tag, first], check=True)
    paths = [folder / f"{number:04d}.qcow2" for number in range(IMAGES)]
    for path in paths:
        shutil.copyfile(first, path)
    return paths


def _timed(paths: list[Path]) -> float:
    start = time.perf_counter()
    assert sum(len(list_snapshots(path)) for path in paths) == IMAGES * SNAPSHOTS
    return time.perf_counter() - start
