"""Values as people read them: sizes, clocks, dates, durations, and text from outside.  Not for: layout."""

from __future__ import annotations

import unicodedata

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size_bytes: int) -> str:
    """Return a size in binary units, with one decimal above 1 KiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _UNITS:
        value /= 1024
        # 1023.96 would be printed as 1024.0, which is 1.0 of the next unit.
        if value < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def clock_text(clock_ns: int) -> str:
    """Return a VM clock as H:MM:SS.mmm."""
    ms = clock_ns // 10**6
    return f"{ms // 3600000}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"


def date_text(created: str) -> str:
    """Return the date and time of an ISO 8601 moment, to the second, still in UTC."""
    return created[:19].replace("T", " ")


def duration_text(duration_ms: float) -> str:
    """Return a duration: in milliseconds below 10 s, in seconds with one decimal above."""
    return f"{duration_ms:.0f} ms" if duration_ms < 10000 else f"{duration_ms / 1000:.1f} s"


def clean(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act upon instead of showing it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def clean_lines(text: str) -> list[str]:
    """Return the lines of ``text``, each cleaned; for a place where there is room for more than one."""
    return [clean(line) for line in text.splitlines()]


def width(text: str) -> int:
    """Return how many columns of a terminal a cleaned text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else int(not unicodedata.combining(c)) for c in text)


def counted(number: int, noun: str) -> str:
    """Return ``1 snapshot``, ``2 snapshots``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " " * width(character)
    return ascii(character)[1:-1]
