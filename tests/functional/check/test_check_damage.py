"""Every kind of damage, made with real images, is found by its name; what is whole is not blamed."""

from __future__ import annotations

import pytest
from tests.framework.atrest import FULL, LAST, PAGED, AtRest, flip

A, B = "virtio0", "virtio1"


def bare(dev: AtRest) -> tuple[str, ...]:
    return ("--disk", str(dev.a), "--disk", str(dev.b))


def test_the_ways_of_keeping_ram_are_both_there(dev: AtRest) -> None:
    assert dev.memory == {FULL: "full", PAGED: "pages", LAST: "pages"}


def test_a_whole_vm_is_whole(dev: AtRest) -> None:
    assert dev.codes("dev") == set()
    code, document = dev.check("dev")
    assert code == 0
    assert [(row["name"], row["memory"], row["ok"]) for row in document["snapshots"]] == [
        (FULL, "full", True),
        (PAGED, "pages", True),
        (LAST, "pages", True),
    ]
    assert all(cell["present"] for row in document["snapshots"] for cell in row["devices"])
    printed = dev.vm.cli("check", "dev").stdout
    assert "no damage" in printed


def test_bare_images_of_a_whole_vm_are_whole_and_their_vm_states_tell_how_ram_is_kept(dev: AtRest) -> None:
    assert dev.codes(*bare(dev)) == {("pages-elsewhere", PAGED, None), ("pages-elsewhere", LAST, None)}
    _, document = dev.check(*bare(dev))
    assert {row["name"]: row["memory"] for row in document["snapshots"]} == dev.memory


def test_missing_on_a_device(dev: AtRest) -> None:
    dev.img("-d", dev.tags[FULL], str(dev.b))
    assert dev.codes("dev") == {("missing-on-device", FULL, B)}
    assert ("missing-on-device", FULL, str(dev.b)) in dev.codes(*bare(dev))


def test_the_same_tag_twice(dev: AtRest) -> None:
    dev.img("-c", dev.tags[FULL], str(dev.b))
    assert ("tag-twice", FULL, B) in dev.codes("dev")
    assert ("tag-twice", FULL, str(dev.b)) in dev.codes(*bare(dev))


def test_numeric_tags_and_whole_foreign_ones(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-c", "1", str(image))
        dev.img("-c", "theirs", str(image))
    found = dev.codes("dev")
    assert ("numeric-tag", "1", None) in found
    assert [code for code, snapshot, _ in found if snapshot == "theirs"] in ([["foreign"], ["date-differs"]])


def test_equal_ids_with_different_states(dev: AtRest) -> None:
    dev.img("-c", "x", str(dev.a))
    dev.img("-c", "y", str(dev.b))
    assert {code for code, _, _ in dev.codes("dev")} == {"ids-differ", "missing-on-device"}


def test_a_different_vm_clock(dev: AtRest) -> None:
    dev.patch_entry(dev.b, dev.tags[FULL], vm_clock_ns=7)
    assert dev.codes("dev") == {("clock-differs", FULL, None)}
    assert ("clock-differs", FULL, None) in dev.codes(*bare(dev))


def test_in_the_catalog_but_on_no_disk(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-d", dev.tags[FULL], str(image))
    assert dev.codes("dev") == {("not-on-any-disk", FULL, None)}


def test_on_disks_but_not_in_the_catalog(dev: AtRest) -> None:
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)
    assert ("not-in-catalog", LAST, None) in dev.codes("dev")


def test_a_parent_that_is_nowhere_is_a_note(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-d", dev.tags[PAGED], str(image))
    assert ("lost-parent", LAST, None) in dev.codes(*bare(dev))
    code, _ = dev.check(*bare(dev))
    assert code == 0


def test_no_vm_state_anywhere(dev: AtRest) -> None:
    dev.patch_entry(dev.a, dev.tags[FULL], vm_state_size=0)
    assert dev.codes("dev") == {("no-vm-state", FULL, None)}
    assert ("no-vm-state", FULL, None) in dev.codes(*bare(dev))


def test_a_damaged_vm_state(dev: AtRest) -> None:
    flip(dev.a, dev.a.read_bytes().index(b"QEVM"))
    assert "vm-state-damaged" in {code for code, _, _ in dev.codes("dev")}


@pytest.mark.parametrize("how", ["gone", "cut", "raw"])
def test_an_image_that_cannot_be_read(dev: AtRest, how: str) -> None:
    if how == "gone":
        dev.b.unlink()
    else:
        dev.b.write_bytes(dev.b.read_bytes()[:60] if how == "cut" else bytes(1 << 20))
    assert ("image-unreadable", None, B) in dev.codes("dev")
    assert ("image-unreadable", None, str(dev.b)) in dev.codes(*bare(dev))


def test_missing_pages(dev: AtRest) -> None:
    (dev.home / "pages" / f"{dev.ids[LAST]}.index").unlink()
    assert dev.codes("dev") >= {("pages-missing", LAST, None)}
    assert dev.codes("dev", "--fast") >= {("pages-missing", LAST, None)}


def test_damaged_pages_are_found_by_their_checksum_and_not_looked_for_with_fast(dev: AtRest) -> None:
    largest = max((dev.home / "pages").iterdir(), key=lambda path: path.stat().st_blocks)
    flip(largest, largest.read_bytes().index(b"STATE "))  # the guest's RAM holds what it says
    assert "pages-damaged" in {code for code, _, _ in dev.codes("dev")}
    assert dev.codes("dev", "--fast") == set()


def test_space_that_nobody_uses_is_a_note(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-d", dev.tags[LAST], str(image))
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)
    assert dev.codes("dev") == {("unused-space", None, None)}
    assert dev.check("dev")[0] == 0


def test_names_are_never_printed_raw(dev: AtRest) -> None:
    dev.img("-c", "ev\x1b[31mil\nsecond", str(dev.a))
    for words in (("dev",), bare(dev)):
        printed = dev.vm.cli("check", *words, check=False)
        assert printed.returncode == 5
        assert "\x1b" not in printed.stdout + printed.stderr
        assert "ev\\x1b[31mil\\nsecond" in printed.stdout


def test_a_check_of_images_takes_a_vm_or_images_and_not_both(dev: AtRest) -> None:
    for words in ((), ("dev", "--disk", str(dev.a)), ("--disk", str(dev.a), "--disk", str(dev.a))):
        assert dev.vm.cli("check", *words, check=False).returncode == 2


def test_a_check_changes_nothing(dev: AtRest) -> None:
    files = [path for path in (*dev.home.rglob("*"), dev.a, dev.b) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    dev.check("dev")
    dev.check(*bare(dev))
    after = {path: path.read_bytes() for path in files}
    assert after == before
    assert {p for p in dev.home.rglob("*") if p.is_file()} <= set(files)
