"""What a user gets wrong is told with what, where, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from snaptree.places.lock import SupervisorLock
from snaptree.places.places import Places, Running, VMPlace
from snaptree.places.process import identify

Run = Callable[..., SimpleNamespace]


def test_a_command_line_without_its_double_hyphen_is_told_where_that_stands(snaptree: Run) -> None:
    done = snaptree("run", "dev", "qemu-system-x86_64")
    assert done.code == 2
    assert "Unrecognized arguments: qemu-system-x86_64." in done.err
    assert "stands after a double hyphen" in done.err
    assert "VM -- QEMU ARGS..." in done.err


@pytest.mark.parametrize("command", [("vms",), ("status", "dev"), ("list", "dev")])
def test_a_home_that_is_no_directory_is_named(home: Path, snaptree: Run, command: tuple[str, ...]) -> None:
    home.write_text("")
    done = snaptree(*command)
    assert done.code == 1
    assert f'The VMs in "{home}/vms" cannot be listed: Not a directory.' in done.err
    assert "SNAPTREE_HOME must be a directory" in done.err


def test_an_unknown_snapshot_is_told_with_the_command_that_lists_those_of_this_vm(
    stopped_vm: VMPlace, snaptree: Run
) -> None:
    done = snaptree("show", stopped_vm.name, "nothing-alike")
    assert done.code == 3
    assert f"`snaptree list {stopped_vm.name}` shows all." in done.err


def test_an_unsupervised_vm_is_forgotten_only_once_it_is_attached_and_stopped(
    stopped_vm: VMPlace, snaptree: Run
) -> None:
    address = f"unix:{stopped_vm.qemu_socket}"
    own = identify(1)
    stopped_vm.write_running(Running(own, address, str(stopped_vm.qmp_socket), 2**22 + 1, attached=False))
    done = snaptree("forget", stopped_vm.name)
    assert done.code == 4
    assert f"`snaptree attach {stopped_vm.name}`" in done.err
    assert f"`snaptree stop {stopped_vm.name}`" in done.err


def test_a_vm_that_is_looked_after_names_its_supervisor(home: Path, snaptree: Run) -> None:
    place = Places.from_environ().vm("dev")
    place.make()
    lock = SupervisorLock.take(place.lock)
    assert lock is not None
    try:
        place.write_running(Running(None, "tcp:localhost:1", "", 77, attached=True))
        done = snaptree("attach", "dev")
        assert done.code == 4
        assert "The VM dev runs already, under the supervisor with the pid 77." in done.err
    finally:
        lock.release()
