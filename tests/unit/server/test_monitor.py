"""Lines of the human monitor are cut as QEMU's monitor cuts them (``monitor/hmp.c``)."""

from __future__ import annotations

import pytest

from snaptree.server.monitor import find, split


@pytest.mark.parametrize(
    ("line", "word", "rest"),
    [
        ("", "", ""),
        (" \t\n\v\f\r", "", ""),
        ("savevm", "savevm", ""),
        ("  savevm  x y ", "savevm", "x y"),
        ("savevm\tx", "savevm", "x"),
        ("savevm\vx", "savevm", "x"),
        ("xp/2xw 0", "xp", "/2xw 0"),
        ("savevm/x", "savevm", "/x"),
        ("/x", "", "/x"),
        ("\u00a0savevm x", "\u00a0savevm", "x"),
        ("savevm\u2003x", "savevm\u2003x", ""),
        ("savevm\x1cx", "savevm\x1cx", ""),
        ("savevm\0x", "savevm\0x", ""),
    ],
)
def test_a_word_ends_at_c_white_space_or_a_slash(line: str, word: str, rest: str) -> None:
    assert split(line) == (word, rest)


@pytest.mark.parametrize(
    "line",
    ["savevm", "savevm x", "loadvm x", "delvm/x", "info snapshots", "info\tsnapshots x", "help savevm", "? delvm"],
)
def test_our_lines_are_found(line: str) -> None:
    assert find(line) is not None


@pytest.mark.parametrize(
    "line", ["", "info", "info/snapshots", "info block", "savevms", "help", "help info", "help x", "quit"]
)
def test_every_other_line_is_qemus(line: str) -> None:
    assert find(line) is None


@pytest.mark.parametrize("word", ["snapshot_blkdev_internal", "snapshot_delete_blkdev_internal"])
def test_internal_snapshots_of_one_device_pass_only_to_a_user_who_insists(word: str) -> None:
    assert find(f"{word} d x") is not None
    assert find(f"{word} d x", raw=True) is None
