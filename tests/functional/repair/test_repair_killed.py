"""A repair that is killed at any point, and run again, ends whole; what an operation left is finished or undone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from tests.framework.atrest import FULL, LAST, PAGED, AtRest, flip
from tests.framework.waiting import wait_until

NIL = "00000000-0000-0000-0000-000000000000"
REMNANT = f"half@11111111-1111-4111-8111-111111111111^{NIL}"


def lose_catalog(dev: AtRest) -> None:
    (dev.home / "catalog.sqlite").write_bytes(b"text" * 2000)


def lose_both(dev: AtRest) -> None:
    (dev.home / "catalog.sqlite").unlink()
    (dev.home / "lineage").unlink()


def lose_row(dev: AtRest) -> None:
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)


def leave_remnant(dev: AtRest) -> None:
    dev.img("-c", REMNANT, str(dev.a))


def lose_part(dev: AtRest) -> None:
    dev.img("-d", dev.tags[FULL], str(dev.b))


def damage_lineage(dev: AtRest) -> None:
    flip(dev.home / "lineage", 100)


POINTS = [
    (lose_catalog, "rebuild-catalog.before"),
    (lose_catalog, "rebuild-catalog.written"),
    (lose_catalog, "rebuild-catalog.aside"),
    (lose_catalog, "rebuild-catalog.after"),
    (lose_both, "rebuild-catalog.after"),
    (lose_both, "rewrite-lineage.written"),
    (lose_both, "rewrite-lineage.after"),
    (lose_row, "add-snapshot.before"),
    (lose_row, "add-snapshot.lineage"),
    (lose_row, "add-snapshot.after"),
    (leave_remnant, "remove-remnant.begun"),
    (leave_remnant, "removed"),
    (leave_remnant, "remove-remnant.after"),
    (lose_part, "mark.lineage"),
    (lose_part, "mark-inconsistent.after"),
    (damage_lineage, "rewrite-lineage.before"),
    (damage_lineage, "rewrite-lineage.written"),
]


@pytest.mark.qemu("10")
@pytest.mark.parametrize(("damage", "point"), POINTS, ids=[f"{d.__name__}-{p}" for d, p in POINTS])
def test_a_repair_that_is_killed_is_ended_by_the_next(
    dev: AtRest, damage: Callable[[AtRest], None], point: str
) -> None:
    before = {snapshot["id"]: (snapshot["name"], snapshot["vm_clock"]) for snapshot in dev.listed()}
    damage(dev)
    killed = dev.repair("--yes", env={"SNAPTREE_TRACE": f"repair.{point}=kill"})
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    again = dev.repair("--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert dev.repair().stdout.startswith("nothing to repair\n")
    assert {s["id"]: (s["name"], s["vm_clock"]) for s in dev.listed()} == before
    if damage is not lose_part:
        assert dev.codes("dev") == set()
    assert REMNANT not in dev.vm.tool("qemu-img", "snapshot", "-l", str(dev.a)).stdout


def cut_off(dev: AtRest, point: str, *command: str) -> None:
    """Kill the supervisor at a point of an operation, and QEMU with it."""
    dev.vm.env["SNAPTREE_TRACE"] = f"{point}=kill"
    try:
        since = dev.vm.serial_end()
        dev.vm.run()
        dev.vm.wait_states(2, since)  # the disks are at no snapshot any more
        dev.vm.cli(*command, check=False)
    finally:
        del dev.vm.env["SNAPTREE_TRACE"]
    state = dev.vm.cli_json("vms")[0]
    assert state["state"] == "unsupervised"
    # While QEMU runs what it has open cannot be changed.
    waiting = dev.repair("--yes")
    assert waiting.returncode == 0
    assert "snaptree attach dev" in waiting.stdout
    end_qemu(dev, state["qemu_pid"])


def end_qemu(dev: AtRest, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: dev.vm.cli_json("vms")[0]["state"] == "stopped" or None, "QEMU's end")


@pytest.mark.parametrize(
    ("point", "finished"),
    [("create.begun", False), ("create.paused", False), ("create.saved", None), ("create.whole", True)],
)
def test_a_create_that_was_cut_off_is_finished_or_undone(dev: AtRest, point: str, finished: bool | None) -> None:
    before = dev.listed()
    cut_off(dev, point, "create", "dev", "new")
    assert "unfinished-operation" in {code for code, _, _ in dev.codes("dev")}
    done = dev.repair("--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dev.codes("dev") <= {("unused-space", None, None)}
    names = [snapshot["name"] for snapshot in dev.listed()]
    assert names[:3] == [snapshot["name"] for snapshot in before]
    assert all(snapshot["consistent"] for snapshot in dev.listed())
    if finished is not None:
        assert ("new" in names) == finished


@pytest.mark.parametrize("point", ["load.begun", "load.reverted", "load.noted"])
def test_a_load_that_was_cut_off_is_finished_or_undone(dev: AtRest, point: str) -> None:
    cut_off(dev, point, "load", "--discard", "dev", PAGED)
    done = dev.repair("--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dev.codes("dev") == set()
    current = [snapshot["name"] for snapshot in dev.listed() if snapshot["current"]]
    assert current == ([PAGED] if point != "load.begun" else [LAST])


def test_a_freeing_of_pages_that_is_killed_is_ended_by_the_next(dev: AtRest) -> None:
    for image in (dev.a, dev.b):
        dev.img("-d", dev.tags[LAST], str(image))
    dev.sql("DELETE FROM snapshots WHERE name = ?", LAST)
    before = dev.listed()
    killed = dev.repair("--yes", env={"SNAPTREE_TRACE": "repair.freed=kill"})
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert dev.repair("--yes").returncode == 0
    assert dev.codes("dev") == set()
    assert dev.listed() == before


def test_a_load_whose_finishing_is_killed_is_finished_by_the_next(dev: AtRest) -> None:
    cut_off(dev, "load.begun", "load", "--discard", "dev", PAGED)
    dev.img("-a", dev.tags[PAGED], str(dev.b))  # one disk was reverted, the other wasn't
    killed = dev.repair("--yes", env={"SNAPTREE_TRACE": "repair.reverted=kill"})
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    done = dev.repair("--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dev.codes("dev") == set()
    assert [snapshot["name"] for snapshot in dev.listed() if snapshot["current"]] == [PAGED]


@pytest.mark.parametrize("point", ["delete.begun", "delete.removed", "delete.freed"])
def test_a_delete_that_was_cut_off_is_finished(dev: AtRest, point: str) -> None:
    cut_off(dev, point, "delete", "dev", PAGED)
    done = dev.repair("--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [snapshot["name"] for snapshot in dev.listed()] == [FULL, LAST]
    assert dev.check("dev")[1]["ok"]
