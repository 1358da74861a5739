"""Fork disks on real QEMU: an overlay on a view holds the snapshot, to the byte, whatever happens to the source."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.plain import PlainQEMU
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.framework.waiting import wait_until

from snaptree.engine.forkdisks import make_overlay, make_view
from snaptree.model.errors import ImageError

TAG = "base,@^1"  # a comma separates options

KINDS = [
    "cluster_size=64k",
    "cluster_size=4k,lazy_refcounts=on",
    "cluster_size=512",
    "cluster_size=2M",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k",
    "compat=0.10",
    "preallocation=metadata",
    "compression_type=zstd,cluster_size=32k",
]
"""Of sources."""

SIZE = 6 << 20
BLOCK = 64 << 10


def fork_disk(vm: TestVM, source: Path, name: str, tag: str = TAG) -> Path:
    """Make a view and an overlay on it, and return the overlay."""
    overlay = vm.root / f"{name}.qcow2"
    overlay.unlink(missing_ok=True)
    size = make_view(source, tag, vm.root / f"{name}.view")
    make_overlay(vm.root / f"{name}.view", overlay, size)
    return overlay


def digest(path: Path) -> str:
    """Return a digest of a file's content, in which blocks of zeros are left out, and holes not even read."""
    found = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break  # holes to the end
            if (block := os.pread(fd, BLOCK, at)).strip(b"\0"):
                found.update(at.to_bytes(8) + block)
            at += BLOCK
        return f"{size} {found.hexdigest()}"
    finally:
        os.close(fd)


def content(vm: TestVM, image: Path, *options: str) -> str:
    raw = vm.root / "content.raw"
    vm.tool("qemu-img", "convert", *options, "-O", "raw", str(image), str(raw))
    return digest(raw)


def snapshot_content(vm: TestVM, image: Path, tag: str = TAG) -> str:
    """Return what qemu-img says of a snapshot, of an image that may be in use."""
    return content(vm, image, "-U", "-l", f"snapshot.name={tag.replace(',', ',,')}")


def run_job(client: QMPClient, command: str, tag: str, *nodes: str) -> None:
    arguments: dict[str, object] = {"job-id": "job", "tag": tag, "devices": list(nodes)}
    if command != "snapshot-delete":
        arguments["vmstate"] = nodes[0]
    client.execute(command, arguments)

    def ended() -> object:
        (job,) = client.execute("query-jobs")
        return job if job["status"] == "concluded" else None

    job = wait_until(ended, f"the end of {command}")
    client.execute("job-dismiss", {"id": "job"})
    assert "error" not in job, job  # type: ignore[operator]


def random_commands(chance: random.Random, size: int) -> list[str]:
    commands = []
    for _ in range(12):
        length = chance.choice([512, 4096, 65536, 500 << 10]) * chance.randrange(1, 4)
        at = chance.randrange(0, (size - length) // 512) * 512
        verb = chance.choice(["write", "write", "write -z", "write -z -u", "discard"])
        pattern = f" -P {chance.randrange(1, 256)}" if verb == "write" else ""
        commands += ["-c", f"{verb}{pattern} {at} {length}"]
    return commands


def sources_of(vm: TestVM, chance: random.Random, kind: str) -> list[Path]:
    """Make a plain image, one over another (named relatively, of another size), and one with compressed clusters."""
    size = SIZE
    base, raw = vm.new_image("base", str(size)), vm.root / "content.raw"
    vm.tool("qemu-io", *random_commands(chance, size), str(base))
    raw.write_bytes(b"".join(chance.randbytes(512) + bytes([each % 251]) * 65024 for each in range(size >> 16)))
    compressed = vm.root / "compressed.qcow2"
    options = f"{kind.replace('preallocation=metadata', 'cluster_size=64k')}"
    vm.tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, str(raw), str(compressed))
    over = vm.new_image("over", "7M", "-o", options, "-b", "base.qcow2", "-F", "qcow2")
    return [vm.new_image("plain", "7M", "-o", kind), over, compressed]


@pytest.mark.parametrize("kind", KINDS)
def test_random_images_are_seen_as_qemu_img_converts_their_snapshots(vm_factory: VMFactory, kind: str) -> None:
    vm = vm_factory(disks=1)
    chance = random.Random(kind)
    for source in sources_of(vm, chance, kind):
        wanted = []
        for tag in ("1-tag", "2-tag"):
            vm.tool("qemu-io", *random_commands(chance, SIZE), str(source))
            vm.tool("qemu-img", "snapshot", "-c", tag, str(source))
            wanted.append(snapshot_content(vm, source, tag))
        vm.tool("qemu-io", *random_commands(chance, SIZE), str(source))
        assert len({*wanted, content(vm, source)}) == 3
        before = digest(source)
        for tag, expected in zip(("1-tag", "2-tag"), wanted, strict=True):
            overlay = fork_disk(vm, source, "fork", tag)
            assert content(vm, overlay) == expected
            vm.tool("qemu-img", "check", str(vm.root / "fork.view"))
            vm.tool("qemu-io", *random_commands(chance, SIZE), str(overlay))
            vm.tool("qemu-img", "check", str(overlay))
        assert digest(source) == before


@pytest.mark.long
@pytest.mark.parametrize("cache", ["writeback", "none"])
@pytest.mark.parametrize("kind", ["cluster_size=64k", "cluster_size=4k,lazy_refcounts=on", "extended_l2=on"])
def test_it_stays_while_the_source_writes_and_discards_and_snapshots_come_and_go(
    vm_factory: VMFactory, kind: str, cache: str
) -> None:
    vm = vm_factory(disks=1)
    vm.disks[0].unlink()
    vm.new_image("a", "64M", "-o", kind)
    source = vm.start_plain_qemu(disks="blockdev", cache=cache)

    def write(command: str) -> None:
        told = source.qmp.execute("human-monitor-command", {"command-line": f'qemu-io disk-a "{command}"'})
        assert "failed" not in told, told

    vm.wait_states(3)
    write("write -P 5 30M 9M")
    for tag in ("older", TAG):
        run_job(source.qmp, "snapshot-save", tag, "disk-a")
    wanted = snapshot_content(vm, vm.disks[0])
    overlay = fork_disk(vm, vm.disks[0], "fork")
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
        write("discard 30M 4M")
        write("write -P 6 34M 8M")
        write("write -z -u 36M 1M")
        run_job(source.qmp, command, tag, "disk-a")
        assert content(vm, overlay) == wanted, (command, tag)
        assert content(vm, fork_disk(vm, vm.disks[0], "later")) == wanted, (command, tag)
    vm.assert_guest_ok()
    source.kill()
    assert content(vm, overlay) == wanted
    vm.tool("qemu-img", "check", *(["-r", "all"] if "lazy" in kind else []), str(vm.disks[0]))
    assert content(vm, overlay) == wanted


def open_modes(pid: int, path: Path) -> set[int]:
    """Return how a process has a file open: O_RDONLY, O_RDWR."""
    modes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.realpath(fd) == str(path):
            flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:\t")[1].split()[0]
            modes.add(int(flags, 8) & os.O_ACCMODE)
    return modes


def files(qemu: PlainQEMU, driver: str = "qcow2") -> list[str]:
    nodes = qemu.qmp.execute("query-named-block-nodes", {"flat": True})
    return [str(node["file"]) for node in nodes if node["drv"] == driver]


@pytest.mark.parametrize("options", ["", ",cache=none,aio=native", ",cache=none,discard=unmap,detect-zeroes=unmap"])
def test_guests_fork_and_fork_again_beside_each_other_and_none_sees_what_another_writes(
    vm_factory: VMFactory, options: str
) -> None:
    vm = vm_factory(disks=1)
    image = vm.disks[0]
    contents: list[str] = []
    guests: list[tuple[Path, PlainQEMU]] = []
    for generation in range(4):
        drive = f"file={image},format=qcow2,if=none,id=d{options}"
        qemu = vm.start_plain_qemu("-drive", drive, "-device", "virtio-blk-pci,drive=d,id=v", disks="none")
        assert str(image) in files(qemu)
        for older, _ in guests:
            assert open_modes(qemu.pid, older) <= {os.O_RDONLY}
        if guests:
            assert open_modes(qemu.pid, guests[0][0]) == {os.O_RDONLY}
        assert open_modes(qemu.pid, image) == {os.O_RDWR}
        vm.wait_states(2, since=vm.serial_end())
        # Each guest begins to count anew; this makes their disks unlike for sure.
        qemu.qmp.execute("human-monitor-command", {"command-line": f'qemu-io d "write -P {generation + 1} 32M 64k"'})
        (device,) = qemu.qmp.execute("query-block")
        run_job(qemu.qmp, "snapshot-save", TAG, device["inserted"]["node-name"])
        contents.append(snapshot_content(vm, image))
        guests.append((image, qemu))
        vm.wait_states(2, since=vm.serial_end())
        image = fork_disk(vm, image, f"fork{generation}")
        assert content(vm, image, "-U") == contents[-1]
    assert len(set(contents)) == 4
    vm.assert_guest_ok()
    for (older, qemu), expected in zip(guests, contents, strict=True):
        qemu.kill()
        assert snapshot_content(vm, older) == expected
        vm.tool("qemu-img", "check", str(older))


def test_a_guest_that_goes_on_from_a_state_writes_to_the_overlay_only(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=2)
    source = vm.start_plain_qemu()
    vm.wait_states(3)
    source.qmp.execute("stop")
    state = vm.root / "state"
    source.qmp.execute("migrate", {"uri": f"exec:cat > {state}"})
    wait_until(lambda: source.qmp.execute("query-migrate")["status"] == "completed", "the state")
    source.kill()
    for disk in vm.disks:
        vm.tool("qemu-img", "snapshot", "-c", TAG, str(disk))
    before = [digest(disk) for disk in vm.disks]
    overlays = [fork_disk(vm, disk, f"fork{disk.stem}") for disk in vm.disks]
    drives = [word for path in overlays for word in ("-drive", f"file={path},format=qcow2,if=virtio")]
    fork = vm.start_plain_qemu(*drives, "-incoming", f"exec:cat {state}", disks="none")
    wait_until(lambda: fork.qmp.execute("query-status")["status"] != "inmigrate", "the state")
    fork.qmp.execute("cont")
    vm.wait_states(3, since=vm.serial_end())
    vm.assert_guest_ok()
    assert {str(path) for path in overlays} <= set(files(fork))
    fork.kill()
    assert [digest(disk) for disk in vm.disks] == before


def test_a_fork_is_a_vm_like_any_other(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=2)
    for disk in vm.disks:
        vm.tool("qemu-img", "snapshot", "-c", TAG, str(disk))
    vm.disks[:] = [fork_disk(vm, disk, f"fork{disk.stem}") for disk in vm.disks]
    vm.run()
    vm.wait_states(2)
    assert vm.cli_json("status", vm.name)["ready"] is True
    vm.cli("create", vm.name, "one")
    vm.wait_states(2, since=vm.serial_end())
    vm.cli("create", vm.name, "two")
    vm.cli("load", vm.name, "one")
    vm.wait_states(2, since=vm.serial_end())
    vm.assert_guest_ok()
    shown = vm.cli_json("show", vm.name, "one")
    assert [device["file"] for device in shown["devices"]] == [str(disk) for disk in vm.disks]
    vm.cli("delete", vm.name, "two")
    vm.cli("check", vm.name)
    vm.cli("stop", vm.name)
    for disk in vm.disks:
        vm.tool("qemu-img", "check", str(disk))


def test_an_overlay_has_the_size_of_the_snapshot_whatever_the_disk_became_since(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    image = vm.new_image("small", "1M", "-o", "cluster_size=4k")
    qemu = vm.start_plain_qemu("-blockdev", f"qcow2,node-name=n,file.driver=file,file.filename={image}", "-S")
    run_job(qemu.qmp, "snapshot-save", TAG, "n")
    qemu.qmp.execute("block_resize", {"node-name": "n", "size": 8 << 20})
    qemu.qmp.execute("human-monitor-command", {"command-line": 'qemu-io n "write -P 7 0 8M"'})
    run_job(qemu.qmp, "snapshot-save", "big", "n")
    run_job(qemu.qmp, "snapshot-load", TAG, "n")
    expected = vm.root / "expected.raw"
    for tag, held in ((TAG, bytes(1 << 20)), ("big", b"\7" * (8 << 20))):
        expected.write_bytes(held)
        assert content(vm, fork_disk(vm, image, "fork", tag)) == digest(expected)


def test_a_view_is_made_anew_under_a_guest_and_after_its_source_has_grown(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    source = vm.disks[0]
    vm.tool("qemu-io", "-c", "write -P 1 0 1M", str(source))
    vm.tool("qemu-img", "snapshot", "-c", TAG, str(source))
    wanted = content(vm, source)
    overlay = fork_disk(vm, source, "fork")
    drive = f"file={overlay},format=qcow2,if=none,id=d"
    guest = vm.start_plain_qemu("-drive", drive, "-device", "virtio-blk-pci,drive=d,id=v", "-S", disks="none")
    vm.tool("qemu-io", "-c", "write -P 2 0 64M", str(source))
    make_view(source, TAG, vm.root / "fork.view")
    told = guest.qmp.execute("human-monitor-command", {"command-line": 'qemu-io d "read -P 1 0 1M"'})
    assert "failed" not in told
    assert content(vm, overlay, "-U") == wanted
    assert (vm.root / "fork.view").stat().st_mode & 0o777 == 0o600


def test_paths_of_all_kinds_do(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    folder = vm.root / 'a,b "c" %d é:{port:x}'
    folder.mkdir()
    source = folder / "s:,ource.qcow2"
    shutil.copy(vm.disks[0], source)
    vm.tool("qemu-io", "-c", "write -P 1 0 1M", f"file:{source}")
    vm.tool("qemu-img", "snapshot", "-c", TAG, f"file:{source}")
    make_overlay(folder / "v,iew", vm.root / "o.qcow2", make_view(source, TAG, folder / "v,iew"))
    assert content(vm, vm.root / "o.qcow2") == snapshot_content(vm, source)


def test_what_cannot_be_made_is_refused_and_leaves_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    source, view = vm.disks[0], vm.root / "v"
    with pytest.raises(ImageError, match="0 snapshots of the tag"):
        make_view(source, TAG, view)
    for _ in range(2):
        vm.tool("qemu-img", "snapshot", "-c", TAG, str(source))
    with pytest.raises(ImageError, match="2 snapshots of the tag"):
        make_view(source, TAG, view)
    vm.tool("qemu-img", "snapshot", "-d", TAG, str(source))
    with pytest.raises(ImageError, match="cannot be written"):
        make_view(source, TAG, vm.root / "nowhere" / "v")
    # Not luks: to choose its iterations qemu-img measures the CPU, and gives up where the host is too busy for it.
    secret = ("--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s")
    encrypted = vm.new_image("encrypted", "1M", *secret)
    opened = f"driver=qcow2,file.filename={encrypted},encrypt.key-secret=s"
    vm.tool("qemu-img", "snapshot", *secret[:2], "--image-opts", "-c", TAG, opened)
    with pytest.raises(ImageError, match=r"encrypted\.qcow2\", snapshot .*: It is encrypted"):
        make_view(encrypted, TAG, view)
    assert not view.exists()
    overlay = fork_disk(vm, source, "fork")
    with pytest.raises(ImageError, match="File exists"):
        make_overlay(vm.root / "fork.view", overlay, 1 << 20)
    assert json.loads(vm.tool("qemu-img", "info", "--output=json", str(overlay)).stdout)["virtual-size"] == 64 << 20
    assert not list(vm.root.glob(".*"))
