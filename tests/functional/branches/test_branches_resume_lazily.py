"""A stopped VM goes on with its RAM mapped from its page store: exactly, whatever is deleted or dies meanwhile."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import VMFactory
from tests.framework.branches import Branch, checksums, forkable
from tests.framework.faults import kill, supervisor_of
from tests.framework.guests import Guest
from tests.framework.ram import differing
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

from snaptree.memory.store import PageStore

OWN_FILE = (
    *("-object", "memory-backend-file,id=pc.ram,size=64M,share=on,mem-path={root}/ram"),
    *("-machine", "pc,memory-backend=pc.ram"),
)

Digests = dict[str, "array[int]"]


def run(vm: TestVM, *extra: str, options: tuple[str, ...] = (), **more: Any) -> Branch:
    """Run a VM that stands still whenever it is started, until it is continued; its guest counts now."""
    vm.cli("run", "--detach", *options, "dev", "--", *forkable(vm, "-S", *extra, **more))
    branch = Branch(vm, "dev")
    branch.monitor().execute("cont")
    branch.wait_states(3)
    return branch


def create(branch: Branch, name: str) -> Digests:
    """Take a snapshot of a VM that stands still for it; return all of its RAM."""
    monitor = branch.monitor()
    monitor.execute("stop")
    monitor.execute("snapshot-create", {"name": name})
    taken = branch.digests()
    monitor.execute("cont")
    branch.assert_ok()
    return taken


def load(branch: Branch, name: str) -> Digests:
    """Load a snapshot into a VM that stands still for it; return all of its RAM."""
    monitor = branch.monitor()
    monitor.execute("stop")
    monitor.execute("snapshot-load", {"name": name, "keep": False})
    found = branch.digests()
    monitor.execute("cont")
    branch.assert_ok()
    return found


def running(branch: Branch) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((branch.home / "running.json").read_text())
    return found


def mapped(branch: Branch) -> bool:
    """Say whether QEMU maps the page store: privately, and without any descriptor of it but of a lock."""
    pid = running(branch)["qemu_pid"]
    lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if str(branch.home / "pages") in line]
    assert all(line.split()[1] == "rw-p" for line in lines)
    names = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    assert {Path(name).suffix for name in names if str(branch.home) in name and "pages" in name} <= {".mapped"}
    return bool(lines)


def pages_of(branch: Branch) -> dict[str, str]:
    """Return the checksum of each file of stored pages."""
    return checksums(*(branch.home / "pages").glob("*.pages"))


def resume(branch: Branch, *words: str) -> str:
    """Let it go on; return what was said."""
    return branch.vm.cli("resume", "--detach", branch.name, *words).stderr


def test_ram_is_mapped_and_exact_and_everything_goes_on_from_there(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm, "-device", "vmgenid,guid=auto")
    root = create(dev, "root")
    base = create(dev, "base")
    files = pages_of(dev)
    vm.cli("stop", "--discard", "dev")
    resume(dev, "base")
    assert mapped(dev)
    # QEMU writes a new generation id, into a page of its own.
    assert len(differing(base, dev.digests())) <= 1
    base = dev.digests()
    dev.monitor().execute("cont")
    dev.assert_ok()
    assert files.items() <= pages_of(dev).items()

    # Later snapshots are kept in pages, as what was written since.
    own = create(dev, "own")
    store = PageStore.open(dev.home / "pages", clean=False)
    ids = {name: vm.cli_json("show", "dev", name)["id"] for name in ("root", "base", "own")}
    assert store.base(ids["own"]) == ids["base"]
    store.close()
    assert len(differing(load(dev, "root"), root)) <= 1
    assert len(differing(load(dev, "base"), base)) <= 1
    assert differing(load(dev, "own"), own) == []
    monitor = dev.monitor()
    monitor.execute("stop")
    before = dev.digests()
    monitor.execute("snapshot-load", {"name": "base", "keep": True})
    monitor.execute("snapshot-undo")
    assert differing(before, dev.digests()) == []
    monitor.execute("cont")
    dev.assert_ok()

    # A fork of it, and its own next resume, in which more is mapped.
    (fork,) = dev.fork("own", "trial")
    assert len(differing(own, fork.digests())) <= 1
    fork.monitor().execute("cont")
    fork.assert_ok()
    vm.cli("stop", "dev")
    vm.cli("stop", "trial")
    for branch in (dev, fork):
        resume(branch)
        assert mapped(branch)
        branch.monitor().execute("cont")
        branch.assert_ok()


@pytest.mark.parametrize(("tracker", "guest"), [("userfaultfd", "linux"), ("compare", "firmware")])
def test_what_is_mapped_stays_whatever_is_deleted_and_its_space_comes_back(
    vm_factory: VMFactory, tracker: str, guest: Guest
) -> None:
    vm = vm_factory(guest=guest, pace_ms=10)
    dev = run(vm, memory_mib=128 if guest == "linux" else 64, append="snaptree.pages=256" if guest == "linux" else "")
    for name in ("parent", "base", "child"):
        create(dev, name)
    base = load(dev, "base")
    create(dev, "sibling")
    vm.cli("stop", "--discard", "dev")
    resume(dev, "base")
    assert mapped(dev)
    assert differing(base, dev.digests()) == []
    # The guest has not run, so nearly all that it sees is what is mapped.
    for name in ("base", "parent", "child", "sibling"):
        vm.cli("delete", "dev", name)
        assert differing(base, dev.digests()) == [], name
    assert vm.cli("check", "dev").returncode == 0
    if tracker == "compare":
        # A supervisor that compares takes it up.
        kill(running(dev)["supervisor_pid"])
        vm.env["SNAPTREE_TRACKER"] = "compare"
        vm.cli("attach", "--detach", "dev")
        assert differing(base, dev.digests()) == []
    dev.monitor().execute("cont")
    dev.assert_ok()
    own = create(dev, "own")
    vm.cli("create", "dev", "later")
    assert differing(load(dev, "own"), own) == []
    dev.assert_ok()
    assert list((dev.home / "pages").glob("*.leaving"))
    vm.cli("stop", "--discard", "dev")
    # With QEMU's end the space has come back.
    assert not list((dev.home / "pages").glob("*.leaving"))
    store = PageStore.open(dev.home / "pages", clean=False)
    assert store.ids() == {vm.cli_json("show", "dev", name)["id"] for name in ("own", "later")}
    assert store.unreferenced() == []
    store.close()
    assert "no damage" in vm.cli("check", "dev").stdout
    resume(dev, "own")
    assert mapped(dev) == (tracker == "userfaultfd")
    assert differing(own, dev.digests()) == []


@pytest.mark.parametrize("point", ["", "resume.mapping", "resume.mapped"])
def test_a_supervisor_that_dies_leaves_all_whole(vm_factory: VMFactory, point: str) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm)
    base = create(dev, "base")
    vm.cli("stop", "--discard", "dev")
    if point:
        vm.env["SNAPTREE_TRACE"] = f"{point}=kill"
        assert vm.cli("resume", "--detach", "dev", "base", check=False).returncode == 1
        del vm.env["SNAPTREE_TRACE"]
    else:
        resume(dev, "base")
        dev.monitor().execute("cont")
        vm.cli("delete", "dev", "base")
        base = create(dev, "own")
        pid = supervisor_of(dev.home)
        assert pid is not None
        kill(pid)
    vm.cli("attach", "--detach", "dev")
    name = "base" if point else "own"
    # What RAM is like is found out anew, and it can be brought anywhere.
    assert differing(load(dev, name), base) == []
    after = create(dev, "after")
    assert differing(load(dev, name), base) == []
    assert differing(load(dev, "after"), after) == []
    assert vm.cli_json("show", "dev", "after")["memory"] == "pages"
    dev.kill("qemu")
    assert "no damage" in vm.cli("check", "dev").stdout
    resume(dev, "after")
    assert mapped(dev)
    assert differing(after, dev.digests()) == []
    assert not list((dev.home / "pages").glob("*.leaving"))


def test_after_a_crash_of_qemu_it_goes_on_from_the_same_pages(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm)
    create(dev, "other")
    base = create(dev, "base")
    dev.kill("qemu")
    for _ in range(3):
        resume(dev, "base")
        assert mapped(dev)
        assert differing(base, dev.digests()) == []
        dev.monitor().execute("cont")
        dev.assert_ok()
        dev.kill("qemu")
    vm.cli("delete", "dev", "base")
    assert not [path for path in (dev.home / "pages").iterdir() if path.suffix in (".mapped", ".leaving")]


def test_a_fork_goes_on_from_pages_of_its_source_and_of_its_own(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm)
    create(dev, "base")
    (fork,) = dev.fork("base", "trial")
    fork.monitor().execute("cont")
    fork.assert_ok()
    own = create(fork, "own")
    vm.cli("stop", "--discard", "trial")
    theirs = pages_of(dev)
    resume(fork, "own")
    pid = running(fork)["qemu_pid"]
    assert str(fork.home / "pages") in Path(f"/proc/{pid}/maps").read_text()
    assert differing(own, fork.digests()) == []
    vm.cli("delete", "trial", "own")
    assert differing(own, fork.digests()) == []
    fork.monitor().execute("cont")
    fork.assert_ok()
    vm.cli("stop", "trial")
    vm.cli("stop", "--delete", "trial")
    assert theirs.items() <= pages_of(dev).items()
    dev.assert_ok()


def test_a_balloon_gives_back_only_what_the_guest_has(vm_factory: VMFactory) -> None:
    vm = vm_factory(guest="linux", pace_ms=10)
    dev = run(vm, "-device", "virtio-balloon-pci,id=balloon0", memory_mib=128, append="snaptree.pages=256")
    create(dev, "base")
    vm.cli("stop", "--discard", "dev")
    resume(dev, "base")
    assert mapped(dev)
    before = pages_of(dev)
    monitor = dev.monitor()
    monitor.execute("cont")
    full = monitor.execute("query-balloon")["actual"]
    taken = {}
    for number, target in enumerate((full - (48 << 20), full, full - (32 << 20))):
        monitor.execute("balloon", {"value": target})
        wait_until(lambda: monitor.execute("query-balloon")["actual"] == target, f"{target} bytes")  # noqa: B023
        taken[f"s{number}"] = create(dev, f"s{number}")
    for name, digests in taken.items():
        assert differing(load(dev, name), digests) == []
    assert before.items() <= pages_of(dev).items()


@pytest.mark.parametrize(
    ("extra", "words", "environ", "why"),
    [
        ((), ("--eager",), {}, ""),
        ((), (), {"SNAPTREE_TRACKER": "compare"}, "compared only slowly"),
        (OWN_FILE, (), {}, "a file that is not ours"),
    ],
    ids=["asked-for", "compare", "own-file"],
)
def test_where_ram_cannot_be_mapped_it_is_read_and_the_reason_said(
    vm_factory: VMFactory, extra: tuple[str, ...], words: tuple[str, ...], environ: dict[str, str], why: str
) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm, *(word.format(root=vm.root) for word in extra))
    dev.monitor().execute("snapshot-create", {"name": "base"})
    vm.cli("stop", "--discard", "dev")
    vm.env |= environ
    said = resume(dev, "base", *words)
    assert not mapped(dev)
    assert ("All of its RAM was read first" in said) == bool(why)
    assert why in said
    dev.monitor().execute("cont")
    dev.assert_ok()
    assert not list((dev.home / "pages").glob("*.mapped"))


def test_a_damaged_page_is_refused_and_nothing_of_it_runs(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    dev = run(vm)
    create(dev, "good")
    create(dev, "bad")
    vm.cli("stop", "--discard", "dev")
    id = vm.cli_json("show", "dev", "bad")["id"]
    store = PageStore.open(dev.home / "pages", clean=False)
    own = [segment for segment in store.segments.ranges if store.segments.open(segment).header.made_for == id]
    path = store.segments.path(own[0])
    store.close()
    with path.open("r+b") as file:
        file.seek(4096 + 100)
        byte = file.read(1)
        file.seek(4096 + 100)
        file.write(bytes([byte[0] ^ 4]))
    refused = vm.cli("resume", "--detach", "dev", "bad", check=False)
    assert refused.returncode == 4
    assert "wrong checksum" in refused.stderr
    assert vm.cli_json("vms")[0]["state"] == "stopped"
    resume(dev, "good")
    assert mapped(dev)
    dev.monitor().execute("cont")
    dev.assert_ok()
