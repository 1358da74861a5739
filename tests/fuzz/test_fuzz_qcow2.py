"""The qcow2 reader under hostile images: 60 s in continuous integration, 5 s elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 60 if os.environ.get("CI") else 5


@pytest.mark.long
def test_hostile_images_end_in_errors_of_ours_in_bounded_time_and_memory() -> None:
    fuzzer = Path(__file__).with_name("fuzz_qcow2.py")
    argv = [sys.executable, str(fuzzer), "--seconds", str(SECONDS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS + 120)
    assert done.returncode == 0, done.stdout + done.stderr
