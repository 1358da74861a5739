"""How much memory the host can still give to a process of ours.  Not for: what QEMU has taken already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""cgroup v1 says "no limit" by a number near 2**63."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that can still be taken, swap included.

    :param bytes: ``None`` where nobody tells.
    :param where: what limits it, for people.
    """

    bytes: int | None
    where: str


def available() -> Memory:
    """Return what is left on the host and in every control group that we are in."""
    host = read_keys(_text(Path("/proc/meminfo")))
    swap = host.get("SwapFree", 0) * 1024
    found = [Memory(host["MemAvailable"] * 1024 + swap, "the host")] if "MemAvailable" in host else []
    for version, group in groups(_text(Path("/proc/self/cgroup")).splitlines()):
        found += _in_groups(version, group, swap)
    return min(found, key=lambda memory: memory.bytes or 0, default=Memory(None, "the host"))


def groups(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Return the version and the path of each control group that limits memory, by /proc/self/cgroup."""
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found.append((2, path))
        elif "memory" in controllers.split(","):
            found.append((1, path))
    return found


def left_in_group(limits: Iterable[str], used: str, stat: Mapping[str, int]) -> int | None:
    """Return the bytes that a group can still take; ``None`` where it has no limit.

    :param limits: the texts of its limit files; empty where a file is missing.
    :param used: the text of its usage file.
    :param stat: of memory.stat.  Cached files count as used, and are given back when memory is wanted.
    """
    numbers = [int(text) for text in limits if text.isdigit() and int(text) < _UNLIMITED]
    if not numbers or not used.isdigit():
        return None
    prefix = "total_" if "total_active_file" in stat else ""  # v1: with the groups below it
    cached = stat.get(f"{prefix}active_file", 0) + stat.get(f"{prefix}inactive_file", 0)
    return max(0, min(numbers) - max(0, int(used) - cached))


def read_keys(text: str) -> dict[str, int]:
    """Return the numbers of lines ``KEY: NUMBER kB`` or ``KEY NUMBER``."""
    found = {}
    for line in text.splitlines():
        words = line.replace(":", " ", 1).split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _in_groups(version: int, group: str, host_swap: int) -> list[Memory]:
    root = _CGROUPS if version == 2 else _CGROUPS / "memory"
    path = PurePosixPath(group)
    found = []
    # Inside a container the path may be the host's, and only the root of the mount is there.
    for one in (path, *path.parents):
        directory = root / str(one).lstrip("/")
        stat = read_keys(_text(directory / "memory.stat"))
        if version == 2:
            limits = [_text(directory / "memory.max"), _text(directory / "memory.high")]
            left = left_in_group(limits, _text(directory / "memory.current"), stat)
            most, used = _text(directory / "memory.swap.max"), _text(directory / "memory.swap.current")
            swap = max(0, int(most) - int(used)) if most.isdigit() and used.isdigit() else host_swap
        else:
            limits = [_text(directory / "memory.limit_in_bytes")]
            left = left_in_group(limits, _text(directory / "memory.usage_in_bytes"), stat)
            swap = 0
        if left is not None:
            found.append(Memory(left + min(swap, host_swap), f"the control group {one}"))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
