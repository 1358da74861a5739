import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snaptree
from snaptree.model.errors import (
    AmbiguousId,
    BadName,
    NoSuchSnapshot,
    SnaptreeError,
    UsageError,
    all_errors,
    exit_codes,
    from_code,
)
from snaptree.model.ids import NIL, is_id, match_id, new_id
from snaptree.model.names import check_name, check_vm_name, printable
from snaptree.model.tags import TAG_MAX, format_tag, parse_tag
from snaptree.qcow2.errors import NotQcow2


@pytest.mark.parametrize(
    "name", ["a", "before-upgrade", "v1.0", "2024-01-02", "A_b.c-d", "deadbeef", "x" * 128, "1.2.3"]
)
def test_a_name_of_the_right_shape_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1",
        "0042",
        "1_000",
        "1e5",
        "0x10",
        "1.5",
        "inf",
        "nan",
        "Infinity",
        "true",
        "False",
        "null",
        "x" * 129,
        "-a",
        ".a",
        "_a",
        "a b",
        "a/b",
        "a\n",
        "ü",
        "a@b",
        "3fab28c9-a6bd-4659-b9bc-683780d8a2d5",
        "3FAB28C9-A6BD-4659-B9BC-683780D8A2D5",
        "3fab28c9a6bd4659b9bc683780d8a2d5",
    ],
)
def test_a_name_that_could_be_something_else_is_refused_with_what_would_be_right(name: str) -> None:
    with pytest.raises(BadName) as caught:
        check_name(name)
    assert caught.value.exit_code == 2
    assert caught.value.remedy


@given(st.text())
def test_what_is_printed_of_a_strangers_name_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a/b", "..", "a" * 64, "a\n"])
def test_a_vms_name_is_a_single_path_component_in_lower_case(name: str) -> None:
    with pytest.raises(BadName):
        check_vm_name(name)


def test_the_longest_tag_fits_into_what_qemu_keeps() -> None:
    assert len(format_tag("x" * 128, new_id(), new_id()).encode()) <= TAG_MAX


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,30}x", fullmatch=True))
def test_a_tag_read_back_says_what_was_written(name: str) -> None:
    id, parent = new_id(), new_id()
    tag = parse_tag(format_tag(name, id, parent))
    assert tag is not None
    assert (tag.name, tag.id, tag.parent_id) == (name, id, parent)


@given(st.text())
def test_no_text_breaks_the_tag_parser(text: str) -> None:
    tag = parse_tag(text)
    assert tag is None or format_tag(tag.name, tag.id, tag.parent_id) == text


@pytest.mark.parametrize("change", [str.upper, lambda t: t + " ", lambda t: "1" + t[1:], lambda t: t.replace("^", "@")])
def test_a_tag_that_is_not_ours_to_the_letter_is_foreign(change: object) -> None:
    assert callable(change)
    assert parse_tag(change(format_tag("a", new_id(), NIL))) is None


def test_an_id_is_found_by_a_unique_prefix_of_eight_digits() -> None:
    ids = ["aaaaaaaa-0000-4000-8000-000000000000", "aaaaaaaa-1111-4000-8000-000000000000", new_id().replace("a", "b")]
    assert match_id("AAAAAAAA-0", ids) == ids[0]
    assert match_id("aaaaaaaa1", ids) == ids[1]
    with pytest.raises(AmbiguousId):
        match_id("aaaaaaaa", ids)
    with pytest.raises(NoSuchSnapshot):
        match_id("cccccccc", ids)
    for bad in ("", "aaaaaaa", "xyz", "aaaaaaaa/"):
        with pytest.raises(UsageError):
            match_id(bad, ids)


def test_a_new_id_is_an_id_and_never_the_same() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_id(id) for id in ids)


def test_every_error_is_found_by_its_code() -> None:
    errors = list(all_errors())
    assert len({error.code for error in errors}) == len(errors) >= 20
    for error in errors:
        assert "code" in vars(error)
        assert type(from_code(error.code, "m", "r")) is error


def test_an_error_of_another_room_travels_as_the_nearest_class_of_the_tree() -> None:
    tree = set(all_errors())
    for module in pkgutil.walk_packages(snaptree.__path__, "snaptree."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert set(all_errors()) == tree  # whatever was imported
    finer = below(SnaptreeError) - tree
    assert NotQcow2 in finer
    for error in finer:
        assert not {"code", "exit_code", "meaning"} & vars(error).keys(), error
        nearest = next(parent for parent in error.__mro__ if parent in tree)
        assert type(from_code(error.code, "m", "r")) is nearest


def below(error: type[SnaptreeError]) -> set[type[SnaptreeError]]:
    """Return every class below one, of our package."""
    own = {child for child in error.__subclasses__() if child.__module__.startswith("snaptree.")}
    return own.union(*map(below, own))


def test_the_exit_codes_are_those_of_the_manual() -> None:
    assert list(exit_codes()) == [0, 1, 2, 3, 4, 5, 130]
