"""The QEMU versions of the test matrix, and where their programs are.  Not for: starting them."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from snaptree.qemu import machines

VERSIONS = ("7.2", "10")


@dataclass(frozen=True, slots=True)
class QEMU:
    """One QEMU of the matrix.

    :param version: ``7.2`` or ``10``.
    :param bin: the directory that holds its programs; a test's PATH begins with it.
    """

    version: str
    bin: Path

    @property
    def system(self) -> Path:
        """The emulator."""
        return self.bin / "qemu-system-x86_64"

    @property
    def img(self) -> Path:
        """The image tool."""
        return self.bin / "qemu-img"

    @property
    def bios(self) -> Path:
        """SeaBIOS, 256 KiB, as this version has it."""
        return (
            self.bin.parent / ("share" if self.bin == Path("/usr/bin") else "usr/share") / "seabios" / "bios-256k.bin"
        )

    @functools.cache  # noqa: B019  there are two
    def said(self) -> bytes:
        """Return what snaptree keeps of what this QEMU says about itself."""
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "emulators.json"
            machines.ask(str(self.system), Path(folder), kept)
            return kept.read_bytes()

    @functools.cache  # noqa: B019  there are two, and few sizes
    def empty_image(self, size: str) -> bytes:
        """Return what this version's ``qemu-img create`` makes of a qcow2 image.

        :param size: as ``qemu-img`` takes it.
        """
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "image"
            subprocess.run([self.img, "create", "-q", "-f", "qcow2", made, size], check=True)
            return made.read_bytes()


@functools.cache
def find_qemu(version: str) -> QEMU:
    """Return the QEMU of this version.

    :raises LookupError: where it isn't there, and says what to run.
    """
    qemu = QEMU(version, _places()[version])
    try:
        words = subprocess.run([qemu.system, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LookupError(f"There is no QEMU {version} at {qemu.system}: {error}. Run: make setup") from error
    if f"version {version}." not in words:
        raise LookupError(
            f"{qemu.system} is {words.splitlines()[0]!r} and not QEMU {version}: "
            "the tests need Debian 12's packages. Run: make setup"
        )
    return qemu


def _places() -> dict[str, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"7.2": Path("/usr/bin"), "10": cache / "snaptree-test" / "qemu10" / "bin"}
