"""How much memory the host can still give."""

from __future__ import annotations

import pytest

from snaptree.model.errors import Refused
from snaptree.qemu.hostmemory import Memory, available, groups, left_in_group, read_keys
from snaptree.qemu.rambackend import RAMBlock
from snaptree.qemu.ramfiles import check_memory

MIB = 1 << 20


def test_proc_and_cgroup_files_are_read() -> None:
    text = "MemTotal:  100 kB\nMemAvailable:    23 kB\nHugePages_Total:       0\nodd\n"
    assert read_keys(text) == {"MemTotal": 100, "MemAvailable": 23, "HugePages_Total": 0}
    assert read_keys("anon 1\nactive_file 2") == {"anon": 1, "active_file": 2}
    assert groups(["9:name=systemd:/", "4:cpu,memory:/a/b", "0::/c:d", "", "nonsense"]) == [(1, "/a/b"), (2, "/c:d")]


@pytest.mark.parametrize(
    ("limits", "used", "stat", "left"),
    [
        (["max", "max"], "100", {}, None),
        (["", ""], "", {}, None),
        (["9223372036854771712"], "100", {}, None),
        (["1000", "max"], "400", {}, 600),
        (["1000", "700"], "400", {}, 300),
        (["1000", "max"], "990", {"active_file": 100, "inactive_file": 400, "shmem": 5}, 510),
        (["1000"], "990", {"active_file": 1, "total_active_file": 100, "total_inactive_file": 40}, 150),
        (["1000", "max"], "1200", {}, 0),
        (["1000", "max"], "5", {"active_file": 100}, 1000),
    ],
)
def test_a_group_can_take_what_its_limit_leaves_and_what_files_only_cache(
    limits: list[str], used: str, stat: dict[str, int], left: int | None
) -> None:
    assert left_in_group(limits, used, stat) == left


def test_this_host_tells() -> None:
    found = available()
    assert found.bytes is not None
    assert found.bytes > 0
    assert found.where


def test_ram_that_does_not_fit_is_refused_with_the_figures_and_the_remedy() -> None:
    blocks = [RAMBlock("a", 600 * MIB), RAMBlock("b", 500 * MIB)]
    check_memory(blocks, Memory(1100 * MIB, "the host"))
    check_memory(blocks, Memory(None, "the host"))
    with pytest.raises(Refused, match=r"1100 MiB, and the control group /x has 1099 MiB left.*--memory full") as caught:
        check_memory(blocks, Memory(1100 * MIB - 1, "the control group /x"))
    assert caught.value.exit_code == 4
