"""What others put into the images: one moment or not, and which entries an adopted snapshot is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snaptree.engine.entries import ONE_MOMENT_NS, is_of, strangers
from snaptree.engine.foreign import foreign_reasons
from snaptree.model.ids import NIL, new_id
from snaptree.model.snapshot import Device, Snapshot
from snaptree.model.tags import format_tag
from snaptree.qcow2.table import ImageSnapshot

S = ImageSnapshot("1", "s", 10**18, 5 * 10**9, 0, None, None, 0, 0)
WITH_STATE = replace(S, vm_state_size=1000)


def codes(tag: str, **tables: list[ImageSnapshot] | None) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.device) for reason in foreign_reasons(tag, tables)]


def test_one_moment_on_all_devices_is_adopted_whatever_the_ids() -> None:
    assert codes("s", a=[WITH_STATE], b=[replace(S, qemu_id="7")]) == []
    assert codes("s", a=[S], b=[S]) == []


@pytest.mark.parametrize(
    ("b", "code"),
    [
        ([], ("tag-missing", "b")),
        ([S, replace(S, qemu_id="2")], ("tag-twice", "b")),
        ([replace(S, vm_clock_ns=6)], ("vm-clock", None)),
        ([replace(S, date_ns=S.date_ns + 1)], ("dates-differ", None)),
        ([WITH_STATE], ("vm-state-twice", None)),
        (None, ("image-unreadable", "b")),
    ],
)
def test_what_shows_that_it_is_not_one_moment(b: list[ImageSnapshot] | None, code: tuple[str, str | None]) -> None:
    assert code in codes("s", a=[WITH_STATE], b=b)


def test_disks_alone_may_be_dated_one_by_one_within_a_second() -> None:
    assert codes("s", a=[S], b=[replace(S, date_ns=S.date_ns + ONE_MOMENT_NS)]) == []
    assert codes("s", a=[S], b=[replace(S, date_ns=S.date_ns + ONE_MOMENT_NS + 1)]) == [("dates-differ", None)]


def test_a_tag_that_is_the_id_of_another_snapshot_is_refused_and_its_own_id_is_not() -> None:
    one = replace(WITH_STATE, tag="1")
    assert codes("1", a=[one]) == []
    assert codes("1", a=[replace(one, qemu_id="2"), S]) == [("tag-is-id", "a")]


@pytest.mark.parametrize("tag", ["", "x" * 256, "\udcff"])
def test_a_tag_that_qemu_cannot_be_asked_for_is_refused(tag: str) -> None:
    assert codes(tag, a=[replace(S, tag=tag)]) == [("tag-unusable", None)]


def snapshot(tag: str) -> Snapshot:
    devices = (Device("a", "n", "/a", 1),)
    return Snapshot(new_id(), "s", NIL, tag, S.date_ns, S.vm_clock_ns, "full", 1000, "a", devices)


def test_an_entry_under_a_tag_of_ours_is_the_snapshot_and_under_a_foreign_tag_only_of_that_moment() -> None:
    ours, theirs = snapshot(format_tag("s", new_id(), NIL)), snapshot("s")
    later = replace(S, date_ns=S.date_ns + 1)
    assert is_of(ours, replace(later, tag=ours.tag))
    assert is_of(theirs, S)
    assert not is_of(theirs, later)
    assert strangers(theirs, [S, later, replace(later, tag="t")]) == [later]
