"""What the host knows about a QEMU process and its files.  Not for: what QEMU says itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from .blockgraph import LOCAL_DRIVERS


@dataclass(frozen=True, slots=True)
class Host:
    """What the host says of one QEMU process; everything empty where it isn't ours to ask.

    :param pid: 0 where it is not known.
    :param cwd: its working directory, where its relative file names begin.
    :param ram_used_bytes: what it has in RAM and in swap; 0 where it is not known.
    :param without_discard: the nodes of its command line that do not pass discards on to their file.
    :param no_reboot: it was started with -no-reboot.
    :param icount: it was started with -icount: the VM's clock does not follow the host's.
    """

    pid: int = 0
    cwd: str = ""
    ram_used_bytes: int = 0
    without_discard: frozenset[str] = frozenset()
    no_reboot: bool = False
    icount: bool = False

    def resolve(self, filename: str) -> str:
        """Return the absolute path of a file or host device, or ``filename`` itself where it can't be told.

        :param filename: QEMU's, of a node whose driver is in LOCAL_DRIVERS.
        """
        path = _local_path(filename)
        if not path.startswith("/"):
            path = self._find(path)
            if not path:
                return filename
        # A name in /dev is stable (/dev/disk/by-id/…), what it points to is not.
        return os.path.normpath(path) if path.startswith("/dev/") else os.path.realpath(path)

    def free_bytes(self, path: str) -> int | None:
        """Return how many bytes an image can still grow; ``None`` where the host can't tell."""
        try:
            if not Path(path).is_file():
                return None
            system = os.statvfs(path)
        except (OSError, ValueError):
            return None
        return system.f_bavail * system.f_frsize

    def _find(self, relative: str) -> str:
        if not self.cwd or not relative:
            return ""
        joined = os.path.join(self.cwd, relative)
        if Path(joined).exists():
            return joined
        # With -daemonize QEMU opens its images first and changes its directory afterwards.
        ending = "/" + os.path.normpath(relative)
        return next((name for name in _open_files(self.pid) if name.endswith(ending)), "")


def look(pid: int | None) -> Host:
    """Look at a QEMU process; what the host doesn't tell stays empty."""
    if not pid:
        return Host()
    words = _command_line(pid)
    counts = bool(_values(words, "icount"))
    return Host(pid, _cwd(pid), _ram_used(pid), without_discard(words), no_reboot(words), counts)


def without_discard(words: list[str]) -> frozenset[str]:
    """Return the node-names of every ``-blockdev`` for a file that does not say ``discard=unmap``.

    The file node within a ``-drive`` or within a qcow2's ``-blockdev`` passes discards on by default, a separate one
    does not (``bdrv_inherited_options`` in QEMU's block.c).
    """
    found = set()
    for option in _values(words, "blockdev"):
        members = _members(option)
        if members.get("driver") in LOCAL_DRIVERS and members.get("discard", "ignore") not in ("unmap", "on"):
            found.add(members.get("node-name", ""))
    return frozenset(found - {""})


def no_reboot(words: list[str]) -> bool:
    """Say whether a command line makes QEMU end, or stop, instead of a reset."""
    chosen = any(word.lstrip("-") == "no-reboot" for word in words if word.startswith("-"))
    for option in _values(words, "action"):
        chosen = _members(option).get("reboot", "shutdown" if chosen else "reset") == "shutdown"
    return chosen


def _values(words: list[str], option: str) -> list[str]:
    """Return the value of every use of an option; QEMU takes one hyphen or two."""
    return [value for word, value in itertools.pairwise(words) if word in (f"-{option}", f"--{option}")]


def _members(option: str) -> dict[str, str]:
    """Return the top members of an option in JSON or in QEMU's KEY=VALUE,… (a comma in a value is doubled)."""
    if option.startswith("{"):
        try:
            parsed = json.loads(option)
        except ValueError:
            return {}
        return {k: v for k, v in parsed.items() if isinstance(v, str)} if isinstance(parsed, dict) else {}
    parts = [part.replace("\0", ",") for part in option.replace(",,", "\0").split(",")]
    pairs = [part.partition("=") for part in parts]
    first = {"driver": parts[0]} if "=" not in parts[0] else {}
    return first | {key: value for key, equals, value in pairs if equals}


def _local_path(filename: str) -> str:
    """Return the path in the file name of a local node: QEMU writes JSON where it was opened with options."""
    if not filename.startswith("json:"):
        return filename
    try:
        members = json.loads(filename[5:])
    except ValueError:
        return ""
    return str(members.get("filename", "")) if isinstance(members, dict) else ""


def _command_line(pid: int) -> list[str]:
    return _read(pid, "cmdline").decode("utf-8", "surrogateescape").split("\0")


def _ram_used(pid: int) -> int:
    total = 0
    for line in _read(pid, "status").decode("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmSwap"):
            total += int(value.split()[0]) * 1024  # proc(5): always in kB
    return total


def _cwd(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def _open_files(pid: int) -> list[str]:
    found = []
    # It may be another user's process, or have ended, or closed that file just now.
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(fd.readlink()))
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
