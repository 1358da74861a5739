"""Saying that a file system is too small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snaptree.places import room
from snaptree.places.room import Room, room_at, shortage

MIB = 1 << 20


def test_a_file_that_is_not_there_yet_is_on_the_file_system_of_its_folder(tmp_path: Path) -> None:
    found = room_at(tmp_path / "not" / "yet")
    assert found is not None
    assert found.device == tmp_path.stat().st_dev
    assert Path(found.mount).is_mount()
    assert tmp_path.resolve().is_relative_to(found.mount)
    assert 0 <= found.free_bytes <= found.total_bytes


def test_nothing_is_said_where_there_is_room(tmp_path: Path) -> None:
    assert shortage([(tmp_path, 1)]) == ""


def test_the_file_system_is_named_with_what_is_free_and_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {"/a/1": Room(1, "/a", 24 * MIB, MIB), "/a/2": Room(1, "/a", 24 * MIB, MIB), "/b": Room(2, "/b", MIB, MIB)}
    monkeypatch.setattr(room, "room_at", lambda path: rooms[str(path)])
    assert shortage([("/a/1", MIB), ("/a/2", MIB), ("/b", MIB)]) == (
        'The file system of "/a/1" and "/a/2" (mounted at "/a") is full: 1.0 MiB of 24.0 MiB are free, and about'
        " 2.0 MiB are needed."
    )


def test_a_file_system_that_is_surely_full_is_named_although_the_figures_say_otherwise(tmp_path: Path) -> None:
    assert shortage([(tmp_path, 0)]) == ""
    said = shortage([(tmp_path, 0)], surely=True)
    assert f'The file system of "{tmp_path}" (mounted at ' in said
    assert said.endswith("are free.")


def test_what_cannot_be_asked_is_left_out() -> None:
    assert shortage([("/" + "x" * (os.pathconf("/", "PC_PATH_MAX") + 1), MIB)], surely=True) == ""
