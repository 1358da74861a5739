"""What would go around the lineage is refused with what to use instead; a user who insists gets it, and sees it."""

from __future__ import annotations

from typing import Any

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.qmp.serving import answer, served
from tests.functional.traps.safety import bare, image_bytes, run_job

NODES = ["disk-a", "disk-b"]
INTERNAL = {"device": "disk-a", "name": "raw"}
CREATE = "Use snapshot-create with a name"
ALONE = "alone"


def by_node(vm: TestVM) -> list[str]:
    """Return a command line whose disks are the nodes disk-a and disk-b."""
    return bare(vm, disks="blockdev")


def everything(vm: TestVM, own: QMPClient) -> tuple[Any, ...]:
    """Return what a refusal must not change."""
    return image_bytes(vm), own.execute("query-jobs"), own.execute("query-status"), [e["event"] for e in own.events]


def test_qemus_own_snapshot_commands_are_refused_with_ours_named(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    job = {"job-id": "j", "tag": "raw", "devices": NODES}
    internal = {"type": "blockdev-snapshot-internal-sync", "data": INTERNAL}
    other = {"type": "blockdev-backup", "data": {"device": "disk-a", "target": "disk-b", "sync": "none"}}
    with served(vm, argv=by_node(vm)) as own, vm.qmp() as client:
        before = everything(vm, own)
        for command, arguments, remedy in (
            ("snapshot-save", {**job, "vmstate": "disk-a"}, CREATE),
            ("snapshot-save", {}, CREATE),
            ("snapshot-load", {**job, "vmstate": "disk-a"}, ALONE),
            ("snapshot-load", {**job, "vmstate": "disk-a", "name": "x"}, ALONE),
            ("snapshot-delete", job, ALONE),
            ("blockdev-snapshot-internal-sync", INTERNAL, CREATE),
            ("blockdev-snapshot-delete-internal-sync", INTERNAL, "Use snapshot-delete with a name"),
            ("transaction", {"actions": [internal]}, CREATE),
            ("transaction", {"actions": [other, internal]}, CREATE),
        ):
            kind, error = answer(client, command, arguments)
            assert (kind, error["class"], error["code"]) == ("error", "GenericError", "refused"), command
            assert "would go around the lineage" in error["message"]
            assert remedy in error["remedy"]
            assert error["desc"] == f"{error['message']} {error['remedy']}"
        assert everything(vm, own) == before


def test_no_way_of_writing_it_brings_savevm_to_qemu(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        before = everything(vm, own)
        for space in (" ", "\t", "\n", "\v", "\f", "\r", "  \t ", "/"):
            for line in (f"savevm{space}7", f' \t savevm{space}"a b"', f"loadvm{space}x", f"delvm{space}x"):
                assert client.hmp(line).startswith("Error: "), line
            for word in ("snapshot_blkdev_internal", "snapshot_delete_blkdev_internal"):
                assert "would go around the lineage" in client.hmp(f"{word}{space}virtio0 raw")
            if space != "/":
                assert client.hmp(f"info{space}snapshots").startswith("Snapshots of dev")
        assert everything(vm, own) == before


def test_a_word_that_only_looks_like_savevm_is_qemus_to_answer(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        before = everything(vm, own)
        for line in (
            "\u00a0savevm x",
            "savevm\u2003x",
            "savevm\0x",
            "SAVEVM x",
            "savevmx",
            '"savevm" x',
            "info/snapshots",
        ):
            assert client.hmp(line) == own.hmp(line)
            assert "unknown command" in client.hmp(line)
        assert everything(vm, own) == before


def test_a_transaction_without_internal_snapshots_passes(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "disk-a", "name": "bitmap"}}
    with served(vm, argv=by_node(vm)) as own, vm.qmp() as client:
        odd: tuple[Any, ...] = ([], 5, "x", None, [5], [{}], [{"type": "no-such", "data": {}}], {"type": "x"})
        for actions in odd:
            assert answer(client, "transaction", {"actions": actions}) == answer(
                own, "transaction", {"actions": actions}
            )
        assert client.execute("transaction", {"actions": [add]}) == {}
        assert answer(client, "transaction", {"actions": [add]}) == answer(own, "transaction", {"actions": [add]})


def test_with_allow_raw_all_of_it_passes_and_is_shown_as_foreign(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm, "--allow-raw", argv=by_node(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "ours"})
        state = {"vmstate": "disk-a", "devices": NODES}
        assert run_job(client, "snapshot-save", tag="raw", **state) == ""
        assert run_job(client, "snapshot-load", tag="raw", **state) == ""
        client.execute("blockdev-snapshot-internal-sync", {"device": "disk-a", "name": "half"})
        action = {"type": "blockdev-snapshot-internal-sync", "data": {"device": "disk-b", "name": "other half"}}
        client.execute("transaction", {"actions": [action]})
        assert client.hmp("snapshot_blkdev_internal disk-a monitor") == ""
        client.execute("query-snapshot-status")

        listed = client.execute("query-snapshots", {"foreign": True})
        assert [(s["name"], s.get("foreign", False)) for s in listed[:1]] == [("ours", False)]
        assert {s["name"]: [d["present"] for d in s["devices"]] for s in listed[1:]} == {
            "raw": [True, True],
            "half": [True, False],
            "other half": [False, True],
            "monitor": [True, False],
        }
        assert all(s["foreign"] is True and s["id"] is None for s in listed[1:])
        assert [s["name"] for s in client.execute("query-snapshots")] == ["ours"]
        text = client.hmp("info snapshots")
        assert "Not taken by snaptree:" in text
        assert '"raw"' in text  # quoted: it may be anything
        assert "MISSING on virtio-b" in text

        assert run_job(client, "snapshot-delete", tag="raw", devices=NODES) == ""
        client.execute("blockdev-snapshot-delete-internal-sync", {"device": "disk-a", "name": "half"})
        assert client.hmp("snapshot_delete_blkdev_internal disk-a monitor") == ""
        assert [s["name"] for s in client.execute("query-snapshots", {"foreign": True})] == ["ours", "other half"]
        # savevm and loadvm have our meaning all the same.
        assert client.hmp("loadvm ours").startswith("Error: loadvm wants to know")
        assert client.hmp("loadvm tag=ours") == ""
