"""Mixing disks: the wiki page's machine with three older snapshots on one disk and two on the other."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.traps.safety import (
    bare,
    entries,
    image_bytes,
    plain_qemu,
    reasons,
    refused,
    run_job,
    run_state,
    under_care,
)

Listed = list[tuple[str, str]]


def with_unequal_numbers(vm: TestVM) -> TestVM:
    """Put three older snapshots on disk a and two on disk b: QEMU's next number is 4 here and 3 there."""
    for disk, tags in zip(vm.disks, ("xyz", "xy"), strict=True):
        for tag in tags:
            vm.tool("qemu-img", "snapshot", "-c", tag, str(disk))
    return vm


def listed(client: QMPClient, vm: TestVM) -> tuple[Listed, Listed]:
    """Return what QEMU lists for disk a and for disk b."""
    files = {
        node["node-name"]: Path(node["image"]["filename"])
        for node in client.execute("query-named-block-nodes", {"flat": True})
    }
    by_disk = {files[node]: found for node, found in entries(client).items()}
    return by_disk[vm.disks[0]], by_disk[vm.disks[1]]


def test_qemu_alone_numbers_one_snapshot_differently_on_two_disks(vm_factory: VMFactory) -> None:
    vm = with_unequal_numbers(vm_factory())
    with plain_qemu(vm, bare(vm)) as plain:
        assert plain.qmp.hmp("savevm") == ""
        disk_a, disk_b = listed(plain.qmp, vm)
        assert (disk_a[-1][0], disk_b[-1][0]) == ("4", "3")
        assert disk_a[-1][1] == disk_b[-1][1]


def test_qemu_alone_checks_the_tag_of_a_loadvm_on_all_disks_today_but_stops_the_vm_for_it(
    vm_factory: VMFactory,
) -> None:
    vm = with_unequal_numbers(vm_factory())
    with plain_qemu(vm, bare(vm)) as plain:
        write(plain.qmp, 1)
        assert plain.qmp.hmp("savevm") == ""
        write(plain.qmp, 2)
        assert "does not exist in one or more devices" in plain.qmp.hmp("loadvm 4")
        assert contents(vm, plain.qmp) == [2, 2]
        assert run_state(plain.qmp) == "restore-vm"


def test_qemu_alone_loads_half_a_snapshot_and_runs_on_where_it_is_given_one_of_two_disks(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        nodes = sorted(entries(plain.qmp))
        write(plain.qmp, 1)
        assert run_job(plain.qmp, "snapshot-save", tag="s", vmstate=nodes[0], devices=nodes) == ""
        write(plain.qmp, 2)
        assert run_job(plain.qmp, "snapshot-load", tag="s", vmstate=nodes[0], devices=nodes[:1]) == ""
        assert sorted(contents(vm, plain.qmp)) == [1, 2]
        assert run_state(plain.qmp) == "running"


def test_qemu_alone_mixes_two_moments_where_a_tag_on_one_disk_is_a_number_on_the_other(vm_factory: VMFactory) -> None:
    vm = with_unequal_numbers(vm_factory())
    with plain_qemu(vm, bare(vm)) as plain:
        write(plain.qmp, 1)
        assert plain.qmp.hmp("savevm") == ""
        write(plain.qmp, 2)
        assert plain.qmp.hmp("savevm 4") == ""
        disk_a, disk_b = listed(plain.qmp, vm)
        assert [number for number, _ in disk_a[3:]] == ["4", "5"]
        assert disk_a[4][1] == "4"
        assert disk_b[3] == ("4", "4")

        write(plain.qmp, 3)
        assert plain.qmp.hmp("loadvm 4") == ""
        assert contents(vm, plain.qmp) == [1, 2]
        assert run_state(plain.qmp) == "running"


def test_one_id_holds_on_all_devices_whatever_numbers_qemu_gives(vm_factory: VMFactory) -> None:
    vm = with_unequal_numbers(vm_factory())
    with under_care(vm, bare(vm)) as own, vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
        (s,) = client.execute("query-snapshots")
        disk_a, disk_b = listed(own, vm)
        tag = f"s@{s['id']}^00000000-0000-0000-0000-000000000000"
        assert (disk_a[-1], disk_b[-1]) == (("4", tag), ("3", tag))
        write(client, 2)
        client.execute("snapshot-load", {"id": s["id"], "keep": False})
        assert contents(vm, client) == [1, 1]


def test_what_collides_in_qemu_is_an_error_here_and_changes_nothing(vm_factory: VMFactory) -> None:
    vm = with_unequal_numbers(vm_factory())
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
        write(client, 2)
        contents(vm, client)  # writes back what QEMU holds
        before = image_bytes(vm)
        for line in ("savevm 4", "savevm", "loadvm 4", "loadvm tag=4", "loadvm id=4", "loadvm tag=z", "delvm 4"):
            assert client.hmp(line).startswith("Error: "), line
        assert image_bytes(vm) == before
        assert contents(vm, client) == [2, 2]
        assert run_state(client) == "running"


def test_a_snapshot_that_one_disk_lacks_is_shown_as_such_and_not_loaded(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
        tag = client.execute("query-snapshot", {"name": "s"})["tag"]
        write(client, 2)
    vm.tool("qemu-img", "snapshot", "-d", tag, str(vm.disks[1]))
    with under_care(vm, bare(vm)), vm.qmp() as client:
        (s,) = client.execute("query-snapshots")
        assert s["consistent"] is False
        assert [(device["device"], device["present"]) for device in s["devices"]] == [
            ("virtio0", True),
            ("virtio1", False),
        ]
        assert "MISSING on virtio1" in client.hmp("info snapshots")
        assert refused(vm, "load", "--discard", vm.name, "s") == [("tag-missing", "virtio1")]
        assert "does not hold the snapshot s" in client.hmp("loadvm tag=s")
        assert contents(vm, client) == [2, 2]
        assert run_state(client) == "running"
        assert reasons(vm) == []


def test_a_disk_whose_snapshot_of_the_same_tag_is_of_another_moment_is_not_mixed_in(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        write(client, 1)
        client.execute("snapshot-create", {"name": "s"})
        tag = client.execute("query-snapshot", {"name": "s"})["tag"]
        write(client, 2)
    for option in ("-d", "-c"):
        vm.tool("qemu-img", "snapshot", option, tag, str(vm.disks[1]))
    with under_care(vm, bare(vm)), vm.qmp() as client:
        assert client.execute("query-snapshots")[0]["consistent"] is False
        assert ("vm-clock", None) in refused(vm, "load", "--discard", vm.name, "s")
        assert contents(vm, client) == [2, 2]
        assert run_state(client) == "running"


def test_qemu_alone_lists_two_halves_of_two_moments_as_one_snapshot_on_all_disks(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        for pattern, node in enumerate(sorted(entries(plain.qmp)), 1):
            write(plain.qmp, pattern)
            assert run_job(plain.qmp, "snapshot-save", tag="half", vmstate=node, devices=[node]) == ""
        said = plain.qmp.hmp("info snapshots")
        assert "partial" not in said
        assert said.count("half") == 1
        assert "virtio" not in said
        write(plain.qmp, 3)
        assert plain.qmp.hmp("loadvm half") == ""
        assert sorted(contents(vm, plain.qmp)) == [1, 2]
        assert run_state(plain.qmp) == "running"


def test_the_monitor_shows_every_device_and_says_what_is_not_whole(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with plain_qemu(vm, bare(vm)) as plain:
        for node in sorted(entries(plain.qmp)):
            assert run_job(plain.qmp, "snapshot-save", tag="half", vmstate=node, devices=[node]) == ""
    vm.tool("qemu-img", "snapshot", "-c", "lonely", str(vm.disks[0]))
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "s"})
        said = client.hmp("info snapshots").splitlines()
        assert said[0] == "Snapshots of dev, devices: virtio0, virtio1"
        row = {tag: next(line for line in said if f" {tag} " in line) for tag in ("s", '"half"', '"lonely"')}
        assert row["s"].endswith("  all")
        assert row['"half"'].endswith("  all, NOT CONSISTENT")
        assert row['"lonely"'].endswith("  MISSING on virtio1")
