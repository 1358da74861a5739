"""A line in a file of its own: what was written last is read, and nothing that is no line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snaptree.catalog.catalog import Catalog
from snaptree.catalog.history import Journal
from snaptree.catalog.mark import SIZE, Mark
from snaptree.model.errors import CatalogError


def test_what_was_written_last_is_read_by_this_one_and_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "step"
    mark = Mark(path)
    assert mark.read() == ""
    mark.open()
    mark.open()
    assert (mark.read(), path.stat().st_mode & 0o777, path.stat().st_size) == ("", 0o600, SIZE)
    for line, durable in (("reverted job-1", True), ("loaded job-1", False), ("x" * SIZE, False), ("a", True)):
        mark.write(line, durable=durable)
        assert mark.read() == line
        assert Mark(path).read() == line
    mark.close()
    mark.close()
    later = Mark(path)
    later.open()
    assert later.read() == "a"
    later.close()


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "step")
    with pytest.raises(OSError, match="Bad file descriptor"):
        mark.write("a", durable=False)
    mark.open()
    mark.write("a", durable=False)
    with pytest.raises(ValueError, match="65 bytes"):
        mark.write("x" * (SIZE + 1), durable=False)
    assert mark.read() == "a"
    mark.close()
    for path in (tmp_path / "nowhere" / "step", tmp_path):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            Mark(path).open()


@pytest.mark.parametrize("content", [b"", b"\xff" * SIZE, b"\0" * SIZE, b"loaded job-1" + b"\0" * 99, b"loaded job-1"])
def test_whatever_is_in_the_file_is_a_line_or_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step"
    path.write_bytes(content)
    assert Mark(path).read() == ("loaded job-1" if content.startswith(b"l") else "")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "step").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Mark(tmp_path / "step").open()
    assert not (tmp_path / "elsewhere").exists()


def test_the_journal_is_at_the_step_that_was_marked_for_its_job_and_for_no_other(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "catalog.sqlite", create=True)
    catalog.begin(Journal("load", 1, "me", {"job_id": "job-1"}, "begun"))
    catalog.open_mark()

    def step() -> str:
        journal = catalog.journal()
        assert journal is not None
        later = Catalog.open(tmp_path / "catalog.sqlite")
        assert later.journal() == journal
        later.close()
        return journal.step

    assert step() == "begun"
    catalog.mark("reverted", "job-0", durable=True)
    assert step() == "begun"
    catalog.mark("reverted", "job-1", durable=True)
    assert step() == "reverted"
    catalog.mark("loaded", "job-1", durable=False)
    assert step() == "loaded"
    (tmp_path / "step").write_bytes(b"loaded job-")  # as a torn one would be
    assert step() == "begun"
    catalog.mark("loaded", "job-1", durable=False)
    catalog.mark("begun", "job-1", durable=False)
    assert step() == "begun"
    catalog.set_step("writing", {"job_id": "job-2"})
    assert step() == "writing"  # it was begun anew
    catalog.close()


def test_an_operation_without_a_job_has_no_mark(tmp_path: Path) -> None:
    (tmp_path / "step").write_bytes(b"loaded ")
    catalog = Catalog.open(tmp_path / "catalog.sqlite", create=True)
    for plan in ({}, {"job_id": ""}):
        catalog.begin(Journal("delete", 1, "me", plan, "begun"))
        journal = catalog.journal()
        assert journal is not None
        assert journal.step == "begun"
        catalog.ended()
    catalog.close()


def test_a_mark_that_cannot_be_written_says_which_file_and_why(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "catalog.sqlite", create=True)
    with pytest.raises(CatalogError, match="/step cannot be used: Bad file descriptor"):
        catalog.mark("loaded", "job-1", durable=False)
    catalog.begin(Journal("load", 1, "me", {"job_id": "job-1"}, "begun"))
    os.mkdir(tmp_path / "step")
    with pytest.raises(CatalogError, match="/step cannot be used: Is a directory"):
        catalog.open_mark()
    with pytest.raises(CatalogError, match="/step cannot be used: Is a directory"):
        catalog.journal()  # it may have gone further than that
    catalog.close()
