"""Damage of a VM's home: catalog and lineage file.  It doesn't depend on QEMU's version."""

from __future__ import annotations

import pytest
from tests.framework.atrest import LAST, AtRest, flip

pytestmark = pytest.mark.qemu("10")


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "flipped", "text", "newer", "row"])
def test_a_catalog_that_cannot_be_used(dev: AtRest, how: str) -> None:
    file = dev.home / "catalog.sqlite"
    expected = "catalog-damaged"
    match how:
        case "gone":
            file.unlink()
            expected = "catalog-lost"
        case "empty":
            file.write_bytes(b"")
            expected = "catalog-lost"
        case "cut":
            file.write_bytes(file.read_bytes()[:5000])
        case "flipped":
            file.write_bytes(file.read_bytes().replace(b"CREATE TABLE snapshots", b"CREATE TABLE snapshotz"))
        case "text":
            file.write_text("not a database\n" * 100)
        case "newer":
            dev.sql("PRAGMA user_version = 99")
            expected = "catalog-newer"
        case _:
            dev.sql("UPDATE snapshots SET devices = 'x' WHERE name = ?", LAST)
    found = dev.codes("dev")
    assert {code for code, _, _ in found if code.startswith("catalog")} == {expected}
    # Every other command says how to get on, instead of showing a VM without snapshots.
    done = dev.vm.cli("list", "dev", check=False)
    assert done.returncode == 1
    assert how == "newer" or "snaptree repair dev" in done.stderr
    started = dev.vm.cli("run", "--detach", "dev", "--", *dev.vm.qemu_args(), check=False)
    assert started.returncode == 1
    assert how == "newer" or "snaptree repair dev" in started.stderr


def test_lines_of_the_lineage_file_that_cannot_be_read(dev: AtRest) -> None:
    flip(dev.home / "lineage", 100)
    assert ("lineage-damaged", None, None) in dev.codes("dev")
    (dev.home / "lineage").unlink()
    assert ("lineage-damaged", None, None) in dev.codes("dev")
