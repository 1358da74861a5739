"""The human monitor through QMP: our four lines with one meaning each, and every other as QEMU has it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.functional.qmp.serving import served

CHANGING_ITSELF = {
    *("blockstats", "jit", "profile", "migrate", "usernet", "opcount", "trace-events", "stats"),  # count time or events
    *("snapshots", "qtree", "qom-tree", "qdm"),  # ours; long, and in an order of its own
    *("lapic", "sgx", "sev", "tlb", "mem", "sync-profile"),
}


def topics(client: QMPClient) -> Iterable[str]:
    """Return what ``info`` can show."""
    return re.findall(r"^info (\S+)", client.hmp("help info"), re.MULTILINE)


def test_every_other_line_of_the_monitor_is_answered_as_without_us(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        found = [topic for topic in topics(own) if topic not in CHANGING_ITSELF]
        assert len(found) > 30
        lines = [f"info {topic}" for topic in found] + [
            "info",
            "help",
            "help info",
            "?",
            "help system_reset",
            "help no",
        ]
        lines += [
            "x /4xb 0xfffffff0",
            "p $pc",
            "print 0x10 + 1",
            "xp/2xw 0xfffffff0",
            "cont x",
            "commit no",
            "",
            " ",
            "\t",
        ]
        for line in lines:
            assert client.hmp(line) == own.hmp(line), line


def test_lines_that_change_something_pass_too(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        assert client.hmp("cont") == ""
        own.wait_event("RESUME")
        assert client.hmp("stop") == ""
        own.wait_event("STOP")
        assert client.hmp("c") == ""
        assert own.execute("query-status")["running"] is True
        assert client.hmp("drive_add 0 if=none,id=d,driver=null-co,read-zeroes=on") == "OK\r\n"
        assert client.hmp("drive_del d") == ""
        assert client.hmp("drive_del d") == own.hmp("drive_del d")


def test_help_says_what_our_lines_take(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client:
        for line, form in (
            ("savevm", "savevm NAME -- "),
            ("loadvm", "loadvm tag=NAME|id=ID -- "),
            ("delvm", "delvm tag=NAME|id=ID -- "),
            ("info snapshots", "info snapshots  -- "),
        ):
            text = client.hmp(f"help {line}")
            assert text.startswith(form)
            assert text.count("\r\n") == 1


def test_info_snapshots_shows_every_device_and_takes_no_argument(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm), vm.qmp() as client:
        empty = "Snapshots of dev, devices: virtio0, virtio1\r\nThere is no snapshot; savevm NAME takes one.\r\n"
        assert client.hmp("info snapshots") == empty
        assert client.hmp("savevm a") == ""
        head, columns, row, end = client.hmp("info snapshots").split("\r\n")
        assert (head, end) == ("Snapshots of dev, devices: virtio0, virtio1", "")
        assert row.split()[:2] == ["*", "a"]
        assert row.split()[-1] == "all"
        assert row.index("all") == columns.index("DEVICES")
        assert client.hmp("info snapshots x") == "Error: info snapshots takes no argument\r\n"


def test_errors_are_short_lines_that_say_what_to_do(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    raw = vm.root / "b.raw"
    raw.write_bytes(bytes(1 << 20))
    with served(vm), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        client.execute(
            "blockdev-add", {"driver": "raw", "node-name": "r", "file": {"driver": "file", "filename": str(raw)}}
        )
        client.execute("device_add", {"driver": "virtio-blk-pci", "drive": "r", "id": "disk-r", "bus": "pci.0"})
        for line in (
            "savevm b",
            "savevm a",
            "savevm a b",
            "savevm",
            "loadvm tag=b",
            "loadvm id=x",
            "loadvm a",
            "delvm a",
        ):
            text = client.hmp(line)
            assert text.startswith("Error: "), line
            assert text.endswith("\r\n")
            assert "\n" not in text.replace("\r\n", "")
            assert len(text.splitlines()) <= 3
        said, sentence, remedy = client.hmp("savevm b").splitlines()
        assert said == "Error: The VM dev cannot be snapshotted now:"
        assert sentence.startswith("  disk-r")
        assert "qemu-img convert" in remedy
        assert [s["name"] for s in client.execute("query-snapshots")] == ["a"]
