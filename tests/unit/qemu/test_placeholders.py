"""What is a placeholder, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaptree.model.errors import UsageError
from snaptree.qemu.placeholders import escaped, fill, wanted

VALUES: dict[str, str | int] = {
    "vm": "dev",
    "dir": "/run/d",
    "cid": 77,
    "port:ssh": 2022,
    "port:web": 2080,
    "mac:n": "52:54:00:01:02:03",
}


def filled(word: str) -> str:
    return fill([word], VALUES)[0]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{vm}", "dev"),
        (
            "user,id=n,hostfwd=tcp::{port:ssh}-:22,hostfwd=tcp::{port:web}-:80",
            "user,id=n,hostfwd=tcp::2022-:22,hostfwd=tcp::2080-:80",
        ),
        ("unix:{dir}/vnc.sock", "unix:/run/d/vnc.sock"),
        ("virtio-net,mac={mac:n},netdev=n", "virtio-net,mac=52:54:00:01:02:03,netdev=n"),
        ("vhost-vsock-pci,guest-cid={cid}", "vhost-vsock-pci,guest-cid=77"),
        ("{vm}{vm}", "devdev"),
        (
            '{"driver":"vhost-vsock-pci","guest-cid":"{cid}","id":"{vm}"}',
            '{"driver":"vhost-vsock-pci","guest-cid":"77","id":"dev"}',
        ),
    ],
)
def test_a_placeholder_is_filled_wherever_it_stands(word: str, expected: str) -> None:
    assert filled(word) == expected


@pytest.mark.parametrize(
    "word",
    [
        '{"driver":"qcow2","file":{"driver":"file","filename":"a{}b"}}',
        "{'driver':'qcow2'}",
        '{"a":{}}',
        "{}",
        "{",
        "}",
        "{ vm }",
        "{a,b}",
        "{a=b}",
        "string=${mac:hexhyp}/${vm}",
        "{1}",
        "{:x}",
    ],
)
def test_all_other_braces_stay_as_they_are(word: str) -> None:
    assert wanted([word]) == ()
    assert filled(word) == word


@pytest.mark.parametrize(
    ("word", "expected"), [("{{vm}}", "{vm}"), ("{{prot:ssh}}", "{prot:ssh}"), ("{{{vm}}}", "{{vm}}")]
)
def test_doubled_braces_stand_for_the_text(word: str, expected: str) -> None:
    assert wanted([word]) == ()
    assert filled(word) == expected


@pytest.mark.parametrize(
    "word",
    ["{prot:ssh}", "{port}", "{port:}", "{port:a/b}", "{mac}", "{vm:x}", "{cid:1}", "{VM}", "{name}", "x={dir:a}"],
)
def test_what_only_looks_like_one_is_an_error_that_shows_the_right_forms(word: str) -> None:
    for call in (lambda: wanted([word]), lambda: fill([word], VALUES)):
        with pytest.raises(UsageError) as caught:
            call()
        assert "{port:NAME}" in caught.value.remedy
        assert f"{{{{{word.partition('{')[2]}}}" in caught.value.remedy
        assert filled(f"{{{{{word.partition('{')[2]}}}") == "{" + word.partition("{")[2]


def test_each_is_wanted_once_in_the_order_in_which_they_come() -> None:
    assert wanted(["{port:b}", "{vm} {port:a}", "{port:b}"]) == ("port:b", "vm", "port:a")


@given(st.lists(st.text(st.sampled_from('{}"$:{vm}{port:a}x'), max_size=30)))
def test_an_escaped_command_line_is_filled_with_itself(argv: list[str]) -> None:
    assert wanted(escaped(argv)) == ()
    assert fill(escaped(argv), {}) == argv


@given(
    st.recursive(
        st.none() | st.integers() | st.text("ab :"), lambda x: st.lists(x) | st.dictionaries(st.text("ab:"), x)
    )
)
def test_json_passes_as_it_is(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, separators=(",", ":"))):
        assert filled(text) == text
