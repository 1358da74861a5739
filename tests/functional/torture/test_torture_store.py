"""A page store that is damaged: the load is refused before anything is touched, check names it, the others load."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np
import pytest
from tests.framework.atrest import FULL, LAST, PAGED, AtRest, flip
from tests.framework.qemus import VERSIONS
from tests.functional.traps.safety import image_bytes

from snaptree.memory.pages import PAGE
from snaptree.memory.store import PageStore

pytestmark = pytest.mark.qemu(*(VERSIONS if "SNAPTREE_TORTURE" in os.environ else VERSIONS[-1:]))
"""All in the long form (`make torture`)."""


def flipped_page(dev: AtRest) -> None:
    store = PageStore.open(dev.home / "pages", clean=False)
    map = store.map(dev.ids[PAGED])
    slot = int(map.slots(np.arange(map.pages, dtype=np.int64)).max())
    store.close()
    for segment in (dev.home / "pages").glob("*.pages"):
        first, count = (int(word, 16) for word in segment.stem.split("-"))
        if first <= slot < first + count:
            flip(segment, (1 + slot - first) * PAGE + 77)  # behind the page of the header


def cut_segment(dev: AtRest) -> None:
    segment = max((dev.home / "pages").glob("*.pages"), key=lambda path: path.stat().st_size)
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])


def lost_segment(dev: AtRest) -> None:
    max((dev.home / "pages").glob("*.pages"), key=lambda path: path.stat().st_size).unlink()


def lost_index(dev: AtRest) -> None:
    (dev.home / "pages" / f"{dev.ids[PAGED]}.index").unlink()


def flipped_index(dev: AtRest) -> None:
    flip(dev.home / "pages" / f"{dev.ids[PAGED]}.index", 40)


def cut_index(dev: AtRest) -> None:
    index = dev.home / "pages" / f"{dev.ids[PAGED]}.index"
    index.write_bytes(index.read_bytes()[:20])


@pytest.mark.parametrize("damage", [flipped_page, cut_segment, lost_segment, lost_index, flipped_index, cut_index])
def test_damaged_pages_are_refused_before_anything_is_touched(dev: AtRest, damage: Callable[[AtRest], None]) -> None:
    damage(dev)
    code, document = dev.check("dev")
    blamed = {found["snapshot"] for found in document["findings"] if found["code"].startswith("pages-")}
    assert code == 5
    assert PAGED in blamed
    vm = dev.vm
    vm.run()
    try:
        vm.wait_serial("GUEST-UP")
        with vm.qmp() as client:
            client.execute("stop")
            for name in dev.ids:
                before = image_bytes(vm)
                done = vm.cli("load", "--json", "--discard", "dev", name, check=False)
                if name in blamed:
                    assert done.returncode == 4, done
                    error = json.loads(done.stdout)["error"]
                    assert {reason["code"] for reason in error["reasons"]} <= {"pages-missing", "pages-damaged"}
                    assert image_bytes(vm) == before
                    assert client.execute("query-status")["status"] == "paused"
                else:
                    assert done.returncode == 0, done
            assert FULL not in blamed
            client.execute("snapshot-load", {"name": FULL, "keep": False})
            client.execute("cont")
            since = vm.serial_end()
            vm.wait_states(2, since)
            vm.cli("create", "dev", "afterwards")  # the store goes on
            vm.cli("load", "dev", "afterwards", "--discard")
            for name in blamed:  # and what is damaged can go
                vm.cli("delete", "dev", name)
        _, document = dev.check("dev")
        assert {found["code"] for found in document["findings"]} <= {"unused-space"}, document
    finally:
        vm.cli("stop", "dev", "--discard", check=False)


@pytest.mark.qemu("10")
@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
def test_a_catalog_that_is_lost_or_damaged_is_said_and_repair_brings_every_snapshot_back(dev: AtRest, how: str) -> None:
    before = {s["id"]: (s["name"], s["parent_id"], s["vm_clock"], s["memory"]) for s in dev.listed()}
    file = dev.home / "catalog.sqlite"
    if how == "gone":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 3] if how == "cut" else data.replace(b"CREATE TABLE", b"CREATE TAXLE"))
    done = dev.vm.cli("list", "dev", check=False)
    assert done.returncode == 1
    assert "snaptree repair dev" in done.stderr
    assert dev.repair("--yes").returncode == 0
    assert {s["id"]: (s["name"], s["parent_id"], s["vm_clock"], s["memory"]) for s in dev.listed()} == before
    dev.vm.run()
    try:
        for name in (FULL, PAGED, LAST):
            since = dev.vm.serial_end()
            dev.vm.cli("load", "dev", name, "--discard")
            dev.vm.wait_states(2, since)
        dev.vm.assert_guest_ok()
    finally:
        dev.vm.cli("stop", "dev", "--discard", check=False)
