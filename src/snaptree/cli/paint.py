"""Text with styles, and its forms for a pipe and for a terminal.  Not for: what is said.

A span is a cleaned text and the name of a style; a line is some spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[str, str]
Line = Sequence[Span]

# Select Graphic Rendition parameters (ECMA-48, 8.3.117).
_SGR = {"bold": "1", "dim": "2", "current": "1;32", "good": "32", "bad": "31", "note": "33"}
RICH = {"bold": "bold", "dim": "dim", "current": "bold green", "good": "green", "bad": "red", "note": "yellow"}


def plain(lines: Iterable[Line]) -> str:
    """Return lines without any style."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def painted(lines: Iterable[Line]) -> str:
    """Return lines with the escape sequences of their styles."""
    return "".join("".join(_paint(text, style) for text, style in line) + "\n" for line in lines)


def _paint(text: str, style: str) -> str:
    return f"\x1b[{_SGR[style]}m{text}\x1b[m" if style and text.strip() else text
