"""Views of snapshots on real QEMU: what stands on one sees the snapshot, whatever happens beside it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework import processes
from tests.framework.plain import PlainQEMU
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

from snaptree.model.errors import ImageError
from snaptree.qemu.nbd import View, end_view, start_view
from snaptree.qemu.overlay import write_overlay

TAG = "base,@^1"  # a comma separates options

Start = Callable[[Path], View]


@pytest.fixture
def vm(vm_factory: VMFactory, monkeypatch: pytest.MonkeyPatch) -> TestVM:
    vm = vm_factory(disks=1)
    monkeypatch.setenv("PATH", vm.env["PATH"])
    monkeypatch.setenv(processes.MARK, vm.env[processes.MARK])
    return vm


@pytest.fixture
def start(vm: TestVM) -> Iterator[Start]:
    started: list[View] = []

    def view(image: Path) -> View:
        started.append(start_view(image, TAG, vm.runtime / "view.sock"))
        return started[-1]

    yield view
    for each in started:
        end_view(each)


def run_job(client: QMPClient, command: str, tag: str) -> None:
    arguments = {"job-id": "job", "tag": tag, "devices": ["disk-a"]}
    if command != "snapshot-delete":
        arguments["vmstate"] = "disk-a"
    client.execute(command, arguments)

    def ended() -> object:
        (job,) = client.execute("query-jobs")
        return job if job["status"] == "concluded" else None

    job = wait_until(ended, f"the end of {command}")
    client.execute("job-dismiss", {"id": "job"})
    assert "error" not in job, job  # type: ignore[operator]


def content(vm: TestVM, image: Path, *options: str) -> str:
    raw = vm.root / "content.raw"
    vm.tool("qemu-img", "convert", "-U", *options, "-O", "raw", str(image), str(raw))
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def overlay_on(vm: TestVM, view: View) -> Path:
    path = vm.root / "overlay.qcow2"
    path.unlink(missing_ok=True)
    write_overlay(path, view.size_bytes, view.backing(), "raw")
    return path


def kill(view: View) -> None:
    os.kill(view.process.pid, signal.SIGKILL)
    wait_until(lambda: not view.serves(), "the view's end")


def status(qemu: PlainQEMU) -> str:
    return str(qemu.qmp.execute("query-status")["status"])


def test_an_overlay_sees_the_snapshot_while_the_source_writes_and_others_come_and_go(vm: TestVM, start: Start) -> None:
    source = vm.start_plain_qemu(disks="blockdev")
    vm.wait_states(3)
    for tag in ("older", TAG):
        run_job(source.qmp, "snapshot-save", tag)
    wanted = content(vm, vm.disks[0], "-l", f"snapshot.name={TAG.replace(',', ',,')}")
    view = start(vm.disks[0])
    overlay = overlay_on(vm, view)
    assert content(vm, overlay) == wanted
    for command, tag in [
        ("snapshot-save", "x1"),
        ("snapshot-delete", "older"),
        ("snapshot-save", "x2"),
        ("snapshot-load", "x1"),
        ("snapshot-delete", "x2"),
        ("snapshot-load", TAG),
        ("snapshot-delete", "x1"),
        ("snapshot-save", "x3"),
    ]:
        vm.wait_states(2, since=vm.serial_end())
        run_job(source.qmp, command, tag)
        assert content(vm, overlay) == wanted, (command, tag)
    vm.assert_guest_ok()
    source.kill()
    assert content(vm, overlay) == wanted
    vm.tool("qemu-img", "check", str(vm.disks[0]))


def test_an_overlay_of_ours_is_one_as_qemu_img_makes(vm: TestVM, start: Start) -> None:
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(vm.disks[0]))
    view = start(vm.disks[0])
    ours, theirs = overlay_on(vm, view), vm.root / "theirs.qcow2"
    vm.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", view.backing(), "-F", "raw", str(theirs))

    def info(path: Path) -> dict[str, object]:
        told = json.loads(vm.tool("qemu-img", "info", "--output=json", str(path)).stdout)
        return {key: told[key] for key in told if key not in ("filename", "actual-size", "children")}

    assert info(ours) == info(theirs)
    vm.tool("qemu-img", "check", str(ours))
    for command in ("write -P 1 0 64M", "write -P 2 1M 512"):
        vm.tool("qemu-io", "-c", command, str(ours))
    vm.tool("qemu-img", "check", str(ours))
    vm.tool("qemu-img", "snapshot", "-c", "s", str(ours))
    vm.tool("qemu-img", "check", str(ours))


def guest_on(vm: TestVM, overlay: Path) -> PlainQEMU:
    drive = f"file={overlay},format=qcow2,if=virtio,rerror=stop,werror=stop"
    return vm.start_plain_qemu("-drive", drive, "-S", disks="none")


def test_a_guest_does_not_notice_a_view_that_dies_and_is_there_again_at_once(vm: TestVM, start: Start) -> None:
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(vm.disks[0]))
    view = start(vm.disks[0])
    guest = guest_on(vm, overlay_on(vm, view))
    kill(view)
    start(vm.disks[0])
    guest.qmp.execute("cont")
    vm.wait_states(3)
    assert "STOP" not in [event["event"] for event in guest.qmp.events]
    vm.assert_guest_ok()


def test_a_guest_pauses_while_its_view_is_gone_and_goes_on_when_it_is_there_again(vm: TestVM, start: Start) -> None:
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(vm.disks[0]))
    view = start(vm.disks[0])
    guest = guest_on(vm, overlay_on(vm, view))
    kill(view)
    guest.qmp.execute("cont")
    wait_until(lambda: status(guest) == "io-error", "the pause")
    start(vm.disks[0])

    def goes_on() -> bool:
        # The first requests may still find the connection broken, and pause it again.
        if status(guest) == "io-error":
            guest.qmp.execute("cont")
        return len(vm.states()) >= 3

    wait_until(goes_on, "a guest that goes on")
    vm.assert_guest_ok()


def test_an_overlay_has_the_size_of_the_snapshot_and_shows_no_vm_state_behind_it(vm: TestVM, start: Start) -> None:
    image = vm.new_image("small", "1M", "-o", "cluster_size=4k")
    qemu = vm.start_plain_qemu("-blockdev", f"qcow2,node-name=disk-a,file.driver=file,file.filename={image}", "-S")
    run_job(qemu.qmp, "snapshot-save", TAG)
    qemu.qmp.execute("block_resize", {"node-name": "disk-a", "size": 8 << 20})
    view = start(image)
    assert view.size_bytes == 1 << 20
    assert content(vm, overlay_on(vm, view)) == hashlib.sha256(bytes(1 << 20)).hexdigest()
    end_view(view)
    run_job(qemu.qmp, "snapshot-save", "big")
    run_job(qemu.qmp, "snapshot-load", TAG)
    with pytest.raises(ImageError, match="has 1048576 bytes now, and had 8388608"):
        start_view(image, "big", vm.runtime / "view.sock")


def test_a_view_belongs_to_nobody_and_another_process_ends_it(vm: TestVM, start: Start) -> None:
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(vm.disks[0]))
    view = start(vm.disks[0])
    parent = Path(f"/proc/{view.process.pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    assert (view.socket.parent.stat().st_mode & 0o777, view.socket.stat().st_mode & 0o077) == (0o700, 0)
    again = View.from_json(json.loads(json.dumps(view.to_json())))
    assert again == view
    assert again.serves()
    end_view(again)
    assert not again.serves()
    assert list(view.socket.parent.glob("view*")) == []
    end_view(again)


def test_a_view_of_what_is_not_there_fails_and_leaves_no_process(vm: TestVM) -> None:
    with pytest.raises(ImageError, match="0 snapshots of the tag"):
        start_view(vm.disks[0], TAG, vm.runtime / "view.sock")
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(vm.disks[0]))
    blocked = vm.runtime / "view.sock"
    blocked.mkdir()
    with pytest.raises(ImageError, match="cannot be served"):
        start_view(vm.disks[0], TAG, blocked)
    assert processes.marked(str(vm.root)) == []
