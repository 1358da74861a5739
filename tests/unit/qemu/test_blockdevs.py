from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snaptree.qemu.blockdevs import BackingImage, Bitmap, closed_devices, qdev_id, read_only_devices
from snaptree.qemu.host import Host

if TYPE_CHECKING:
    from .conftest import Recorded

    Open = Callable[[str], Recorded]

TAG = "first@11111111-1111-4111-8111-111111111111^00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("drives", ["virtio0", "virtio1"]),  # the drive's id, given or made by QEMU
        ("blockdevs", ["disk0", "db"]),  # the qdev id; without one the user's node-name
        ("scsi", ["sys", "data"]),
        ("pflash-raw", ["pflash1", "virtio0"]),
        ("pflash-qcow2", ["vars", "disk0"]),
        ("unattached", ["later", "disk0", "spare", "loose"]),
        ("serial-vga-usb", ["sys"]),
        ("removable", ["ide0-hd0"]),  # no empty drive, nothing read-only
        ("read-only", ["virtio0"]),
        ("export", ["disk0"]),
        ("drives-qemu10", ["virtio0", "virtio1"]),
        ("blockdevs-qemu10", ["disk0", "db"]),
        ("pflash-qcow2-qemu10", ["vars", "disk0"]),
    ],
)
def test_every_writable_device_is_there_once_under_a_name_that_stays(
    recorded: Open, name: str, devices: list[str]
) -> None:
    assert list(recorded(name).devices()) == devices


def test_no_device_is_called_by_a_generated_name(every_recorded: Recorded) -> None:
    assert not [device for device in every_recorded.facts().devices if device.device.startswith("#")]


@pytest.mark.parametrize(
    "name",
    ["throttle", "copy-on-read", "raw-over-qcow2", "backup-kept", "mirror", "throttle-qemu10", "mirror-qemu10"],
)
def test_below_a_filter_the_qcow2_node_itself_is_used(recorded: Open, name: str) -> None:
    device = recorded(name).devices()["disk0"]
    assert (device.node, device.driver) == ("da", "qcow2")
    assert device.root != "da"
    assert device.throttled == name.startswith("throttle")


def test_throttling_in_a_drive_is_no_filter(recorded: Open) -> None:
    assert recorded("throttled-drive").devices()["virtio0"].filters == ()


def test_snapshots_are_read_with_clock_and_size(recorded: Open) -> None:
    devices = recorded("drives").devices()
    (first,), (second,) = devices["virtio0"].snapshots, devices["virtio1"].snapshots
    assert first.tag == second.tag == TAG
    assert first.qemu_id == "1"
    assert first.vm_state_size > 0 == second.vm_state_size
    assert first.vm_clock_ns == second.vm_clock_ns
    assert first.date_ns > 10**18
    assert devices["virtio0"].holding(TAG) == [first]


@pytest.mark.parametrize(
    ("name", "device"), [("pflash-raw", "pflash1"), ("pflash-qcow2", "vars"), ("firmware-only", "pflash0")]
)
def test_flash_memory_is_known_as_such(recorded: Open, name: str, device: str) -> None:
    devices = recorded(name).devices()
    assert [d.device for d in devices.values() if d.is_pflash] == [device]


@pytest.mark.parametrize("name", ["snapshot-option", "snapshot-option-qemu10"])
def test_the_overlay_of_the_snapshot_option_is_temporary(recorded: Open, name: str) -> None:
    device = recorded(name).devices()["virtio0"]
    assert device.temporary
    assert [image.node for image in device.backing]


def test_an_overlay_with_a_name_is_not_temporary(recorded: Open) -> None:
    device = recorded("overlay").devices(Host())["sys"]
    assert not device.temporary
    assert device.file == "/vm/overlay.qcow2"
    ((below),) = device.backing
    assert below == BackingImage("a.qcow2", below.node, (TAG,))


def test_bitmaps_are_listed(recorded: Open) -> None:
    assert recorded("bitmap").devices()["disk0"].bitmaps == (Bitmap("da", "backup"),)


def test_the_bitmap_of_a_block_job_is_not_listed(recorded: Open) -> None:
    assert recorded("mirror").devices()["disk0"].bitmaps == ()


def test_an_external_data_file_is_seen(recorded: Open) -> None:
    assert recorded("external-data-file").devices()["disk0"].external_data_file == "/vm/ext.data"


def test_a_file_node_without_discard_is_seen(recorded: Open) -> None:
    devices = recorded("blockdevs").devices(Host(without_discard=frozenset({"fb"})))
    assert [d.device for d in devices.values() if d.discard_lost] == ["db"]


def test_read_only_media_are_apart(recorded: Open) -> None:
    it = recorded("read-only")
    found = read_only_devices(it.value("query-block"), it.graph, Host())
    assert [device.device for device in found] == ["virtio1"]


def test_an_image_that_qemu_closed_is_no_empty_drive(recorded: Open) -> None:
    assert closed_devices(recorded("closed-as-corrupt").value("query-block")) == ("sys",)
    assert closed_devices(recorded("removable").value("query-block")) == ()


def test_a_relative_name_is_resolved_in_qemus_directory(recorded: Open, tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").write_bytes(b"")
    devices = recorded("drives").devices(Host(cwd=str(tmp_path)))
    assert devices["virtio0"].file == str(tmp_path / "a.qcow2")
    assert devices["virtio0"].host_free_bytes == pytest.approx(
        os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2
    )
    assert devices["virtio1"].file == "b.qcow2"
    assert devices["virtio1"].host_free_bytes is None


@pytest.mark.parametrize(
    ("qdev", "expected"),
    [
        ("disk0", "disk0"),
        ("/machine/peripheral/disk0/virtio-backend", "disk0"),
        ("/machine/peripheral-anon/device[1]", ""),
        ("/machine/unattached/device[18]", ""),
        ("/machine/system.flash0", ""),
        ("", ""),
    ],
)
def test_a_qdev_path_gives_its_id(qdev: str, expected: str) -> None:
    assert qdev_id(qdev) == expected
