"""What a host can do is told thing by thing, each with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from snaptree.engine import doctor
from snaptree.engine.doctor import Finding
from snaptree.memory import disk
from snaptree.model.errors import QEMUStartFailed
from snaptree.places.places import Places
from snaptree.qemu import hostmemory, machines
from snaptree.qemu.hostmemory import Memory
from snaptree.qemu.machines import Emulator

QEMU = Emulator("7.2.22", "pc", {"pc": "pc.ram"}, {}, True, True)


@pytest.fixture(autouse=True)
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find", lambda program, cwd: Path("/bin/qemu"))
    monkeypatch.setattr(machines, "ask_now", lambda program, cwd: QEMU)


def look(tmp_path: Path) -> dict[str, Finding]:
    found = list(doctor.examine(Places(tmp_path / "home", tmp_path / "run"), "qemu", tmp_path))
    assert len({finding.name for finding in found}) == len(found)
    for finding in found:
        assert finding.message.endswith("."), finding
        assert bool(finding.remedy) == (finding.state != "ok"), finding
        assert not finding.remedy or finding.remedy.endswith("."), finding
        assert finding.to_json().keys() == {"name", "state", "message", "remedy"}
    return {finding.name: finding for finding in found}


def test_everything_is_looked_at_and_nothing_stays(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert {
        "qemu",
        "kvm",
        "tracker",
        "memory",
        "home-space",
        "dev-shm",
        "hole-punching",
        "ptrace-scope",
    } <= found.keys()
    assert found["qemu"].state == "ok"
    assert "7.2.22" in found["qemu"].message
    assert list(tmp_path.iterdir()) == []


def test_an_old_qemu_is_limited_and_one_that_is_no_qemu_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Emulator("5.2.0", "pc", {}, {}, False, False)
    monkeypatch.setattr(machines, "ask_now", lambda program, cwd: old)
    found = look(tmp_path)
    states = [found[name].state for name in ("qemu", "snapshot-save", "x-ignore-shared")]
    assert states == ["limited", "missing", "limited"]

    def fails(program: str, cwd: Path) -> Emulator:
        raise QEMUStartFailed("It did not answer.")

    monkeypatch.setattr(machines, "ask_now", fails)
    found = look(tmp_path)
    assert found["qemu"].state == "missing"
    assert "snapshot-save" not in found


@pytest.mark.parametrize("there", [True, False])
def test_kvm_that_does_not_open_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    path = tmp_path / "kvm"
    if there:
        path.mkdir()
    monkeypatch.setattr(doctor, "KVM", path)
    kvm = doctor._kvm()
    assert kvm.state == "limited"
    assert ("Is a directory" if there else "No such file") in kvm.message
    assert kvm.remedy


def test_without_numpy_ram_is_kept_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    found = look(tmp_path)
    assert found["numpy"].state == "limited"
    assert "tracker" not in found


@pytest.mark.parametrize(
    ("scope", "user", "state"),
    [("0", 1, "ok"), ("1", 1, "ok"), ("2", 1, "limited"), ("2", 0, "ok"), ("3", 0, "limited"), ("x", 1, "ok")],
)
def test_yama_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, user: int, state: str) -> None:
    (tmp_path / "scope").write_text(f"{scope}\n")
    monkeypatch.setattr(doctor, "YAMA", tmp_path / "scope")
    monkeypatch.setattr("os.geteuid", lambda: user)
    found = doctor._ptrace_scope()
    assert found.state == state
    assert ("restart" in found.remedy) == (scope == "3")


@pytest.mark.parametrize(("left", "state"), [(None, "limited"), (5 << 20, "limited"), (5 << 30, "ok")])
def test_little_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int | None, state: str) -> None:
    monkeypatch.setattr(hostmemory, "available", lambda: Memory(left, "the control group /x"))
    assert look(tmp_path)["memory"].state == state


def test_a_file_system_without_holes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(tmp_path)["hole-punching"].state == "ok"
    monkeypatch.setattr(disk, "punch", lambda fd, offset, size: None)
    assert look(tmp_path)["hole-punching"].state == "limited"


def test_what_others_may_use_is_named(tmp_path: Path) -> None:
    home, vm = tmp_path / "home", tmp_path / "home" / "vms" / "dev"
    vm.mkdir(parents=True)
    for path in (home, home / "vms", vm):
        path.chmod(0o700)
    (vm / "catalog").touch(0o600)
    (vm / "link").symlink_to("/")
    assert look(tmp_path)["home-permissions"].state == "ok"
    (vm / "catalog").chmod(0o640)
    found = look(tmp_path)["home-permissions"]
    assert (found.state, str(vm / "catalog") in found.message) == ("limited", True)
    (vm / "catalog").chmod(0o600)
    home.chmod(0o711)
    found = look(tmp_path)["home-permissions"]
    assert (found.state, f'use "{home}".' in found.message) == ("limited", True)
    assert found.remedy == f"Run `chmod -R go= {home}`."


def test_a_home_that_is_none_is_missing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    assert look(tmp_path)["home-permissions"].state == "missing"
