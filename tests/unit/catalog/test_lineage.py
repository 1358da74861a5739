from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from snaptree.catalog import lineage
from snaptree.catalog.undo import Undo
from snaptree.model.ids import NIL, new_id
from snaptree.model.snapshot import Snapshot
from snaptree.model.tags import format_tag


def make(name: str, parent_id: str = NIL) -> Snapshot:
    id = new_id()
    return Snapshot(id, name, parent_id, format_tag(name, id, parent_id), 1, 2, "full", 3, "a", ())


def test_what_was_appended_is_what_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "lineage"
    a = make("a")
    b = make("b", a.id)
    c = make("c", b.id)
    records = [
        lineage.create_record(a),
        lineage.create_record(b),
        lineage.create_record(c),
        lineage.rename_record(c.id, "see"),
        lineage.describe_record(a.id, "first\nline \x1b[31m"),
        lineage.load_record(b.id),
        lineage.delete_record([b.id]),
    ]
    for number, record in enumerate(records):
        lineage.append(path, number, record)
    said = lineage.replay(path.read_bytes())
    assert said.snapshots == (
        replace(a, description="first\nline \x1b[31m"),
        replace(c, name="see", parent_id=a.id),
    )
    assert said.current == a.id
    assert said.damaged == 0


def test_a_line_that_a_crash_cut_is_cut_off_by_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "lineage"
    a, b = make("a"), make("b")
    lineage.append(path, 1, lineage.create_record(a))
    whole = path.read_bytes()
    for cut in (1, 9, 40):
        path.write_bytes(whole + lineage.format_line(2, lineage.create_record(b))[:cut])
        lineage.append(path, 3, lineage.create_record(b))
        said = lineage.replay(path.read_bytes())
        assert said.snapshots == (a, b)
        assert said.damaged == 0


def test_a_flipped_bit_costs_one_line_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "lineage"
    a, b = make("a"), make("b")
    lineage.append(path, 1, lineage.create_record(a))
    first = len(path.read_bytes())
    lineage.append(path, 2, lineage.create_record(b))
    data = bytearray(path.read_bytes())
    data[first - 20] ^= 1
    said = lineage.replay(bytes(data))
    assert said.snapshots == (b,)
    assert said.damaged == 1


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    lineage.replay(data)
    lineage.replay(lineage.HEADER + data)


def test_a_text_that_says_the_same_is_a_single_line_of_ascii() -> None:
    line = lineage.format_line(0, lineage.describe_record(NIL, "ü\n\r\x00"))
    assert line.isascii()
    assert line.count(b"\n") == 1


def test_what_undo_goes_back_to_is_that_of_the_last_load_that_said_it() -> None:
    a, b = make("a"), make("b", NIL)
    lines = [
        lineage.create_record(a),
        lineage.create_record(b),
        lineage.load_record(a.id, Undo(b.id)),
        lineage.load_record(a.id),
        lineage.delete_record([b.id]),
    ]
    data = lineage.HEADER + b"".join(lineage.format_line(1, record) for record in lines)
    assert lineage.replay(data).undo == Undo(b.id)
    # A line that cannot be read may have been another load's.
    assert lineage.replay(data + b"00000000 {}\n").undo is None
    again = data + b"00000000 {}\n" + lineage.format_line(2, lineage.load_record(a.id, Undo("", discarded=True)))
    assert lineage.replay(again).undo == Undo("", discarded=True)
    assert lineage.replay(data + lineage.format_line(2, lineage.undo_record(Undo(a.id)))).undo == Undo(a.id)


def test_an_automatic_snapshot_that_gets_a_name_is_automatic_no_more() -> None:
    a = replace(make("auto-1"), automatic=True)
    data = lineage.HEADER + lineage.format_line(1, lineage.create_record(a))
    assert lineage.replay(data).snapshots == (a,)
    renamed = data + lineage.format_line(2, lineage.rename_record(a.id, "mine"))
    assert lineage.replay(renamed).snapshots == (replace(a, name="mine", automatic=False),)
