"""A fork that cannot be started leaves nothing behind, and its source as it was."""

from __future__ import annotations

import json

from tests.conftest import VMFactory
from tests.framework.branches import Branch, remains
from tests.framework.waiting import wait_until


def test_a_fork_whose_qemu_ends_at_its_start_leaves_nothing_behind(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    given = vm.root / "given"
    given.write_text("x")
    source = Branch.run(vm, "-fw_cfg", f"name=opt/org.test/given,file={given}")
    source.create("base")
    vm.cli("fork", "dev", "base", "--as", "works")
    vm.cli("stop", "--delete", "works")
    given.unlink()
    before = remains(vm)
    for names in (("--as", "trial"), ("--as", "trial", "--count", "3")):
        failed = vm.cli("fork", "dev", "base", *names, check=False)
        assert failed.returncode == 1
        assert str(given) in failed.stderr
        wait_until(lambda: remains(vm) == before, "the same as before")
    assert list((source.home / "forks").iterdir()) == []
    source.assert_ok()
    vm.cli("delete", "dev", "base")


def test_a_fork_with_damaged_pages_leaves_nothing_behind(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    source = Branch.run(vm)
    source.create("base")
    id = vm.cli_json("show", "dev", "base")["id"]
    vm.cli("stop", "dev")
    index = source.home / "pages" / f"{id}.index"
    whole = index.read_bytes()
    index.write_bytes(whole[:-8])
    before = remains(vm)
    failed = vm.cli("fork", "dev", "base", "--as", "trial", "--json", check=False)
    assert json.loads(failed.stdout)["error"]["code"] == "pages-damaged"
    wait_until(lambda: remains(vm) == before, "the same as before")
    index.write_bytes(whole)
    source.fork("base", "trial")[0].assert_ok()
