from __future__ import annotations

import os
from pathlib import Path

import pytest

from snaptree.qemu.host import Host, look, no_reboot, without_discard


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        (["-blockdev", "driver=file,node-name=f,filename=a"], {"f"}),
        (["--blockdev", "file,node-name=f,filename=a"], {"f"}),
        (["-blockdev", "driver=file,node-name=f,filename=a,discard=unmap"], set()),
        (["-blockdev", "driver=host_device,node-name=f,filename=/dev/x,discard=on"], set()),
        (["-blockdev", "driver=file,node-name=f,filename=a,,b,discard=ignore"], {"f"}),
        (["-blockdev", '{"driver":"file","node-name":"f","filename":"a"}'], {"f"}),
        (["-blockdev", '{"driver":"file","node-name":"f","filename":"a","discard":"unmap"}'], set()),
        (["-blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=a"], set()),
        (["-blockdev", "{broken"], set()),
        (["-drive", "file=a,if=virtio"], set()),
        (["-blockdev"], set()),
    ],
)
def test_only_a_separate_file_node_that_ignores_discards_is_named(words: list[str], nodes: set[str]) -> None:
    assert without_discard(words) == nodes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["-no-reboot"], True),
        (["--no-reboot"], True),
        (["-action", "reboot=shutdown"], True),
        (["-action", "panic=pause"], False),
        (["-no-reboot", "-action", "reboot=reset"], False),
        (["-name", "no-reboot"], False),
    ],
)
def test_no_reboot_is_read_from_the_command_line(words: list[str], expected: bool) -> None:
    assert no_reboot(words) is expected


def test_a_link_is_followed_to_the_image(tmp_path: Path) -> None:
    (tmp_path / "real.qcow2").write_bytes(b"")
    (tmp_path / "link.qcow2").symlink_to("real.qcow2")
    assert Host(cwd=str(tmp_path)).resolve("link.qcow2") == str((tmp_path / "real.qcow2").resolve())


def test_a_name_in_dev_stays_as_it_is() -> None:
    assert Host().resolve("/dev/stdin") == "/dev/stdin"


def test_the_path_is_found_in_qemus_json() -> None:
    assert Host().resolve('json:{"driver": "file", "filename": "/no/such.qcow2"}') == "/no/such.qcow2"


@pytest.mark.parametrize("name", ["a.qcow2", "json:{broken", "json:[]", 'json:{"driver": "file"}'])
def test_what_cannot_be_resolved_stays_qemus_name(name: str) -> None:
    assert Host().resolve(name) == name


def test_a_file_is_found_although_the_process_changed_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "far.qcow2"
    with path.open("wb"):
        assert Host(pid=os.getpid(), cwd="/").resolve("far.qcow2") == str(path)


def test_of_a_process_of_ours_memory_and_directory_are_known() -> None:
    host = look(os.getpid())
    assert host.cwd == str(Path.cwd())
    assert host.ram_used_bytes > 1024**2


@pytest.mark.parametrize("pid", [None, 0, 2**22 + 1])
def test_of_no_process_nothing_is_known(pid: int | None) -> None:
    host = look(pid)
    assert (host.cwd, host.ram_used_bytes, host.without_discard, host.no_reboot) == ("", 0, frozenset(), False)


@pytest.mark.parametrize("path", ["/no/such/file", "/dev/null", "nbd://host/disk", "a\0b"])
def test_free_space_is_only_known_for_files(path: str) -> None:
    assert Host().free_bytes(path) is None
