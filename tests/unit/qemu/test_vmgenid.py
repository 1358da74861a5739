"""The page of a vmgenid device is told apart from every other page that changed."""

from __future__ import annotations

import uuid

from snaptree.qemu.vmgenid import GUID_OFFSET, is_generation_page

GUID = "00112233-4455-6677-8899-aabbccddeeff"
SAVED = bytes(range(256)) * 16
WRITTEN = bytes.fromhex("33221100554477668899aabbccddeeff")


def page(guid: bytes, base: bytes = SAVED) -> bytes:
    return base[:GUID_OFFSET] + guid + base[GUID_OFFSET + 16 :]


def test_the_page_with_the_new_id_and_no_other_change_is_it() -> None:
    assert is_generation_page(SAVED, page(WRITTEN), GUID)
    assert is_generation_page(page(WRITTEN), page(WRITTEN), GUID)


def test_another_change_or_another_id_is_not() -> None:
    assert not is_generation_page(SAVED, SAVED, GUID)
    assert not is_generation_page(SAVED, page(uuid.UUID(GUID).bytes), GUID)
    assert not is_generation_page(SAVED, page(WRITTEN)[:-1] + b"x", GUID)
    assert not is_generation_page(SAVED, b"x" + page(WRITTEN)[1:], GUID)
    assert not is_generation_page(SAVED, page(WRITTEN)[1:] + b"x", GUID)
