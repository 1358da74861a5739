"""A command for forks of several snapshots, a bisection, and what differs: on real guests."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from itertools import groupby

from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.branches import Branch, remains
from tests.framework.ram import differing
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until


def line_of(vm: TestVM, *names: str) -> Branch:
    source = Branch.run(vm)
    for name in names:
        vm.cli("create", "dev", name)
    return source


def test_each_runs_the_command_for_a_fork_of_each_and_leaves_no_other_fork(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    Branch.run(vm)
    for name in ("root", "Left.1", "right"):
        vm.cli("create", "dev", name)
        vm.cli("load", "dev", "root")
    before = remains(vm)
    record = vm.root / "record.log"
    script = f'echo "$0 $SNAPTREE_VM $SNAPTREE_SNAPSHOT" >>{record}; test "$SNAPTREE_SNAPSHOT" != right'
    done = vm.cli("each", "dev", "--leaves", "--jobs", "1", "--json", "--", "sh", "-c", script, "{vm}", check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(item["snapshot"], item["fork"], item["exit_code"], item["kept"]) for item in found] == [
        ("Left.1", "dev-each-left-1", 0, False),
        ("right", "dev-each-right", 1, False),
    ]
    assert record.read_text().splitlines() == [
        "dev-each-left-1 dev-each-left-1 Left.1",
        "dev-each-right dev-each-right right",
    ]
    assert remains(vm) == before

    # What fails is kept where that is asked for, and a name that is taken is not taken twice.
    words = ("each", "dev", "right", "root", "--jobs", "2", "--keep-failed", "--")
    done = vm.cli(*words, "sh", "-c", "echo said; kill -9 $$", check=False)
    assert done.returncode == 1
    assert "said" not in done.stdout
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["right", "dev-each-right", "137"],
        ["root", "dev-each-root", "137"],
    ]
    assert "kept: dev-each-right, dev-each-root" in done.stderr
    done = vm.cli("each", "dev", "root", "--", "true")
    assert "dev-each-root-2" in done.stdout
    for name in ("dev-each-right", "dev-each-root"):
        vm.cli("stop", "--delete", name)
    assert remains(vm) == before


def test_each_says_why_there_was_no_fork(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    vm.run()  # with a serial log that only one VM can write
    vm.cli("create", "dev", "base")
    (found,) = vm.cli_json("each", "dev", "base", "--", "true", check=False)
    assert (found["exit_code"], found["fork"], found["error"]["code"]) == (None, "", "not-ready")
    assert "serial" in found["error"]["message"]


def test_an_interrupted_each_ends_the_commands_and_removes_the_forks(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    line_of(vm, "one", "two")
    vm.cli("each", "dev", "one", "two", "--", "true")  # the source keeps open what it has read of its page store
    before = remains(vm)
    script = f"touch {shlex.quote(str(vm.root))}/$0.began; sleep 1000 & wait"
    argv = [sys.executable, "-m", "snaptree", "each", "dev", "one", "two", "--jobs", "2", "--"]
    process = subprocess.Popen(
        [*argv, "sh", "-c", script, "{vm}"], env=vm.env, cwd=vm.root, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    began = [vm.root / f"dev-each-{name}.began" for name in ("one", "two")]
    wait_until(lambda: all(path.exists() for path in began), "both commands")
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert b"Interrupted" in said
    for path in began:
        path.unlink()
    assert not [pid for pid in processes.marked(str(vm.root)) if "sleep" in processes.command_line(pid)]
    assert remains(vm) == before


def test_bisect_finds_the_first_that_fails_by_halves(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    line_of(vm, *(f"s{number}" for number in range(6)))
    vm.cli("load", "dev", "s0")
    vm.cli("create", "dev", "aside")
    before = remains(vm)
    command = ("--", "sh", "-c", 'case "$SNAPTREE_SNAPSHOT" in s0|s1|s2) ;; *) exit 1;; esac')
    found = vm.cli_json("bisect", "dev", "s0", "s5", *command)
    assert found["first_bad"]["name"] == "s3"
    assert len(found["steps"]) == 2
    assert {step["snapshot"]: step["verdict"] for step in found["steps"]} == {"s2": "good", "s3": "bad"}
    skipping = vm.cli("bisect", "dev", "s1", "s3", "--", "sh", "-c", "exit 125", check=False)
    assert skipping.returncode == 1
    assert "one of s2, s3" in skipping.stdout
    aborted = vm.cli("bisect", "dev", "s0", "s2", "--", "sh", "-c", "exit 127", check=False)
    assert (aborted.returncode, "127" in aborted.stderr) == (1, True)
    assert vm.cli("bisect", "dev", "s5", "s0", *command, check=False).returncode == 4
    assert vm.cli("bisect", "dev", "aside", "s5", *command, check=False).returncode == 4
    assert remains(vm) == before


def test_diff_tells_exactly_which_pages_and_ranges_differ(vm_factory: VMFactory) -> None:
    vm = vm_factory(pace_ms=10)
    source = Branch.run(vm)
    monitor = source.monitor()
    seen = []
    for name in ("one", "two"):
        monitor.execute("stop")
        monitor.execute("snapshot-create", {"name": name})
        seen.append(source.digests())
        monitor.execute("cont")
        source.assert_ok()
    wrong = differing(*seen)
    told = vm.cli_json("diff", "dev", "one", "two")
    assert (told["a"]["name"], told["b"]["name"]) == ("one", "two")
    assert told["ram"]["pages"] == len(wrong) > 0
    blocks = {block: len(list(pages)) for block, pages in groupby(wrong, key=lambda item: item[0])}
    assert {block["block"]: block["pages"] for block in told["ram"]["blocks"]} == blocks
    # The guest writes its number into the first 8 KiB of each disk.
    for device in told["devices"]:
        assert 0 < device["bytes"] <= 8192
        assert all(each["offset"] + each["length"] <= 8192 for each in device["ranges"])
    same = vm.cli_json("diff", "dev", "two", "two")
    assert (same["ram"]["pages"], [device["ranges"] for device in same["devices"]]) == (0, [[], []])
    vm.cli("stop", "dev")
    assert vm.cli_json("diff", "dev", "one", "two")["ram"] == told["ram"]
    vm.cli("create", "dev", "off")
    off = vm.cli_json("diff", "dev", "one", "off")
    assert off["ram"]["pages"] is None
    assert "off holds disks only" in off["ram"]["why"]
    assert "off holds disks only" in vm.cli("diff", "dev", "one", "off").stdout
