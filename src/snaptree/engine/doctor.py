"""What this host can do for VMs and their snapshots, found out by trying.  Not for: one VM, which ``status`` is for."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..model.errors import SnaptreeError
from ..model.names import printable
from ..places.places import Places
from ..qemu import hostmemory, machines
from ..qemu.machines import Emulator

State = Literal["ok", "limited", "missing"]

KVM = Path("/dev/kvm")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  looked at, nothing is put there
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
QEMU_MIN = (7, 2)
LOW_SPACE_BYTES = 1 << 30
LOW_MEMORY_BYTES = 1 << 30

_GIB = 1 << 30
_ELSEWHERE = "Set SNAPTREE_HOME and XDG_RUNTIME_DIR to directories of your own."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param name: stable, lower case, with hyphens.
    :param state: ``ok``; ``limited``: it works with less; ``missing``: snaptree cannot do without.
    :param message: a sentence that says what was found.
    :param remedy: a sentence that says what to do; empty where nothing has to be done.
    """

    name: str
    state: State
    message: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return its members."""
        return asdict(self)


def examine(places: Places, qemu: str, cwd: Path) -> Iterator[Finding]:
    """Yield what is found out, one thing after the other.

    Effects: none that stay; processes are started and ended, and a file is made in the home and removed.

    :param qemu: a QEMU program, as on a command line.
    """
    yield from _qemu(qemu, cwd)
    yield _images()
    yield _kvm()
    yield from _memory_room()
    yield _ptrace_scope()
    yield _memory()
    yield _space("home-space", places.home, "the snapshots' pages, in the home")
    yield _space("dev-shm", SHARED_MEMORY, "shared memory; guest RAM is not there, and not limited by it")
    yield _holes(places.home)
    yield _private("home-permissions", places.home)
    yield _private("runtime-permissions", places.runtime)


def _qemu(program: str, cwd: Path) -> Iterator[Finding]:
    try:
        path = machines.find(program, cwd)
        found = machines.ask_now(program, cwd)
    except SnaptreeError as error:
        remedy = error.remedy or "Name a QEMU system emulator: snaptree doctor qemu-system-x86_64."
        yield Finding("qemu", "missing", error.message, remedy)
        return
    said = f"{path} is QEMU {found.version}."
    if tuple(int(word) for word in found.version.split(".")[:2]) < QEMU_MIN:
        yield Finding("qemu", "limited", said, "Use QEMU 7.2 or newer: older ones are not tested.")
    else:
        yield Finding("qemu", "ok", said)
    yield from _abilities(found)


def _abilities(found: Emulator) -> Iterator[Finding]:
    qemu, newer = f"QEMU {found.version}", "Use QEMU 7.2 or newer."
    if found.saves_snapshots:
        yield Finding("snapshot-save", "ok", f"{qemu} saves and loads snapshots of running VMs (snapshot-save).")
    else:
        yield Finding("snapshot-save", "missing", f"{qemu} has no snapshot-save and snapshot-load.", newer)
    if found.ignores_shared:
        yield Finding("x-ignore-shared", "ok", f"{qemu} can leave RAM to snaptree (x-ignore-shared).")
    else:
        yield Finding("x-ignore-shared", "limited", f"{qemu} has no x-ignore-shared: RAM is kept in full.", newer)


def _images() -> Finding:
    path = shutil.which("qemu-img")
    if path is None:
        return Finding(
            "qemu-img",
            "limited",
            "There is no qemu-img: snapshots of stopped VMs cannot be changed.",
            "Install qemu-utils.",
        )
    return Finding("qemu-img", "ok", f"{path} is there for VMs that don't run.")


def _kvm() -> Finding:
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = {
            errno.EACCES: "Become a member of the group kvm (`sudo usermod -aG kvm $USER`, then log in again).",
            errno.ENOENT: "Switch on virtualization in the firmware, or nested virtualization on the host above,"
            " and load the module kvm_intel or kvm_amd.",
        }.get(error.errno or 0, "Look into the kernel's log.")
        return Finding("kvm", "limited", f"{KVM} does not open ({error.strerror}): VMs run under TCG, slowly.", remedy)
    return Finding("kvm", "ok", f"{KVM} opens: VMs can run under KVM, with `-accel kvm`.")


def _memory_room() -> Iterator[Finding]:
    """What guest RAM needs; nothing there can be loaded without numpy."""
    try:
        import numpy  # noqa: PLC0415  may be missing
    except ImportError as error:
        yield Finding(
            "numpy",
            "limited",
            f"numpy cannot be loaded ({error}): RAM is kept in full.",
            "Install numpy for this Python.",
        )
        return
    yield Finding("numpy", "ok", f"numpy {numpy.__version__} is there.")
    from ..memory.probe import probe, tracker_by  # noqa: PLC0415

    abilities = probe()
    name, why = tracker_by(abilities)
    fast = name == "userfaultfd"
    yield Finding(
        "tracker",
        "ok" if fast else "limited",
        f"New VMs get the tracker {name}. {why}",
        "" if fast else "Mend what is limited below; until then a pause grows with RAM.",
    )
    for ability in abilities:
        yield Finding(ability.name, "ok" if ability.available else "limited", ability.message, ability.remedy)


def _ptrace_scope() -> Finding:
    try:
        scope = int(YAMA.read_text())
    except (OSError, ValueError):
        return Finding("ptrace-scope", "ok", "The kernel has no Yama: processes of one user may trace each other.")
    means = {
        0: "processes of one user may trace each other",
        1: "a process may trace those that it has started",
        2: "only root may trace",
    }.get(scope, "nobody may trace")
    said = f"kernel.yama.ptrace_scope is {scope}: {means}."
    if scope < 2 or (scope == 2 and os.geteuid() == 0):
        return Finding("ptrace-scope", "ok", said)
    later = "" if scope == 2 else ", which needs a restart of the host"
    return Finding("ptrace-scope", "limited", said, f"Set it to 1 (`sysctl kernel.yama.ptrace_scope=1`){later}.")


def _memory() -> Finding:
    found = hostmemory.available()
    if found.bytes is None:
        return Finding("memory", "limited", "It is not known how much memory is left.", "Mount /proc.")
    said = f"{found.where[:1].upper()}{found.where[1:]} has {found.bytes / _GIB:.1f} GiB of memory left."
    if found.bytes < LOW_MEMORY_BYTES:
        return Finding("memory", "limited", said, "End other programs: a VM's RAM must fit when it is started.")
    return Finding("memory", "ok", said)


def _space(name: str, path: Path, what: str) -> Finding:
    there = _existing(path)
    try:
        system = os.statvfs(there)
    except OSError as error:
        return Finding(name, "limited", f"{there} cannot be looked at: {error.strerror}.", "Mount it.")
    free = system.f_bavail * system.f_frsize
    said = f"{_quoted(path)} has {free / _GIB:.1f} GiB free ({what})."
    if free < LOW_SPACE_BYTES and path != SHARED_MEMORY:
        return Finding(name, "limited", said, "Make room there, or set SNAPTREE_HOME to a directory with more.")
    return Finding(name, "ok", said)


def _holes(home: Path) -> Finding:
    """Whether deleted pages give their space back there."""
    there = _existing(home)
    try:
        from ..memory import disk  # noqa: PLC0415  numpy may be missing

        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            disk.punch(file.fileno(), 0, 1 << 20)
            os.fsync(file.fileno())
            left = os.fstat(file.fileno()).st_blocks
    except (OSError, ImportError) as error:
        return Finding(
            "hole-punching",
            "limited",
            f"Files in {_quoted(there)} cannot be tried out: {getattr(error, 'strerror', None) or error}.",
            "Set SNAPTREE_HOME to a directory on ext4, XFS, btrfs or tmpfs that you may write to.",
        )
    if left * 512 >= 1 << 20:
        return Finding(
            "hole-punching",
            "limited",
            f"Files in {_quoted(there)} get no holes: deleting snapshots frees no space.",
            "Set SNAPTREE_HOME to a directory on ext4, XFS, btrfs or tmpfs.",
        )
    return Finding("hole-punching", "ok", f"Files in {_quoted(there)} can get holes: deleting frees space.")


def _private(name: str, path: Path) -> Finding:
    text = _quoted(path)
    try:
        info = path.lstat()
    except FileNotFoundError:
        if os.access(_existing(path), os.W_OK | os.X_OK):
            return Finding(name, "ok", f"{text} is not there yet, and can be made.")
        return Finding(
            name, "missing", f"{text} is not there, and cannot be made.", "Set SNAPTREE_HOME and XDG_RUNTIME_DIR."
        )
    except OSError as error:
        return Finding(name, "missing", f"{text}: {error.strerror}.", "Set SNAPTREE_HOME and XDG_RUNTIME_DIR.")
    if not stat.S_ISDIR(info.st_mode):
        return Finding(name, "missing", f"{text} is no directory.", "Move it away.")
    if info.st_uid != os.geteuid():
        return Finding(name, "missing", f"{text} belongs to the user with the uid {info.st_uid}.", _ELSEWHERE)
    loose = [path, *_loose_inside(path)] if info.st_mode & 0o077 else _loose_inside(path)
    if loose:
        names = ", ".join(_quoted(one) for one in loose[:5]) + (", …" if len(loose) > 5 else "")
        return Finding(
            name, "limited", f"Others than you may use {names}.", f"Run `chmod -R go= {shlex.quote(str(path))}`."
        )
    return Finding(name, "ok", f"{text} is private to you.")


def _loose_inside(directory: Path) -> list[Path]:
    """Return what others may use among the files of a private directory; links point elsewhere."""
    found = []
    for folder, folders, files in os.walk(directory):
        for one in (*folders, *files):
            path = Path(folder, one)
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue
            if mode & 0o077 and not stat.S_ISLNK(mode):
                found.append(path)
    return sorted(found)


def _existing(path: Path) -> Path:
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def _quoted(path: Path) -> str:
    return printable(str(path), os.pathconf("/", "PC_PATH_MAX"))
