"""What a guest says on its serial line, and how to start one.  Not for: building it (``tests/guest``).

There are two.  The *firmware* guest is there in 0.2 s and runs under TCG and KVM; the *linux* guest takes 2 to 3 s and
has a real kernel's drivers, page cache and RAM.  Both say GUEST-UP, then STATE lines, or GUEST-FAILED.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.guest import build
from tests.guest.firmware import firmware_image

Guest = Literal["firmware", "linux"]

QUICK_BOOT = "console=ttyS0 quiet nokaslr cryptomgr.notests noreplace-smp lsm= mitigations=off no_timer_check"
"""A third off the kernel's boot time under TCG.

On a loaded machine the timer is late at times, and the check of it ends in a panic.
"""

_STATE = re.compile(r"STATE (OK|MISMATCH) ram=([0-9]+)((?: [a-d]=[0-9]+)*)")
_FAILURE = re.compile(r"GUEST-FAILED.*|.*Kernel panic.*")
_MISMATCH = re.compile(r"STATE MISMATCH.*")


@dataclass(frozen=True, slots=True)
class State:
    """One STATE line: the counter in RAM, and what each disk held."""

    ok: bool
    ram: int
    disks: tuple[int, ...]


def parse_states(serial: str) -> list[State]:
    """Return the whole STATE lines.

    A load amid a line makes one of two halves; the guest says OK only when all numbers are the same, so a line that
    says OK with different ones is such a one, and is left out.
    """
    states = []
    for line in serial.split("\n")[:-1]:
        match = _STATE.fullmatch(line.rstrip("\r"))
        if match is None:
            continue
        disks = tuple(int(word.partition("=")[2]) for word in match[3].split())
        state = State(match[1] == "OK", int(match[2]), disks)
        if not state.ok or set(disks) <= {state.ram}:
            states.append(state)
    return states


def find_failure(serial: str) -> str | None:
    """Return the first line that says that the guest goes no further."""
    match = _FAILURE.search(serial)
    return match[0].strip() if match else None


def find_trouble(serial: str) -> str | None:
    """Return the first line that says that the guest goes no further, or that RAM and disks disagree."""
    match = _FAILURE.search(serial) or _MISMATCH.search(serial)
    return match[0].strip() if match else None


def kernel_args(guest: Guest, folder: Path, *, disks: int, pace_ms: int, append: str) -> list[str]:
    """Return QEMU's arguments that start the guest.

    :param folder: where the firmware guest is written.
    :param disks: how many disks the guest has to find.
    :param pace_ms: milliseconds of rest between two rounds.
    :param append: more words for the Linux guest's kernel command line (see ``tests/guest/init.sh``).
    :raises LookupError: where the Linux guest is not built, and says what to run.
    """
    if guest == "firmware":
        assert not append, "the firmware guest has no command line"
        image = folder / "firmware-guest"
        image.write_bytes(firmware_image(disks=disks, pace_ms=pace_ms))
        return ["-kernel", str(image)]
    if not build.STAMP.is_file():
        raise LookupError(f"The Linux guest is not built ({build.STAMP} is missing). Run: make setup")
    words = f"{QUICK_BOOT} snaptree.disks={disks} snaptree.pace={pace_ms} {append}".strip()
    return ["-kernel", str(build.KERNEL), "-initrd", str(build.INITRAMFS), "-append", words]
