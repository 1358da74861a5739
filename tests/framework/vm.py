"""The VM of a test: a place of its own, a guest that checks itself, snaptree or a plain QEMU around it.

Not for: what a test expects of them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from . import processes, warm
from .guests import Guest, State, find_failure, find_trouble, kernel_args, parse_states
from .plain import PlainQEMU
from .qemus import QEMU
from .qmp import QMPClient
from .waiting import TIMEOUT_S, wait_until

__all__ = ["Accelerator", "DisksBy", "Guest", "PlainQEMU", "State", "TestVM", "VMFactory"]

T = TypeVar("T")

DisksBy = Literal["drive", "blockdev", "none"]
Accelerator = Literal["tcg", "kvm"]

LOG_TAIL_BYTES = 16 << 10
_BLOCK_BYTES = 4096

# -arch-capabilities: with it, QEMU aborts where KVM itself runs in a VM that hides the MSR.
CPU = {"tcg": "max", "kvm": "max,-arch-capabilities"}


class TestVM:
    """One VM, with a home, a runtime directory, disks and a serial log that no other test has.

    :ivar root: everything is below it; short, so that a socket's path stays below 107 bytes, and without a colon.
    :ivar home: SNAPTREE_HOME.
    :ivar runtime: XDG_RUNTIME_DIR.
    :ivar env: what every process that the test starts gets as its environment.
    :ivar disks: the qcow2 images that the guest writes, fresh and empty.
    :ivar serial_log: what every guest of this VM said, one after the other.
    """

    __test__ = False  # pytest would take it for a class of tests.

    def __init__(
        self,
        qemu: QEMU,
        name: str,
        *,
        guest: Guest = "firmware",
        disks: int = 2,
        disk_mib: int = 64,
        pace_ms: int = 100,
    ) -> None:
        self.qemu = qemu
        self.name = name
        self.guest = guest
        self.pace_ms = pace_ms
        self.root = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))  # pytest's own directories are too long
        self.home = self.root / "home"
        self.runtime = self.root / "run"
        self.runtime.mkdir(mode=0o700)
        self.serial_log = self.root / "serial.log"
        self.serial_log.touch()
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("SNAPTREE_", "XDG_"))}
        self.env |= {
            processes.MARK: str(self.root),
            "SNAPTREE_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOME": str(self.root),
            "PATH": f"{qemu.bin}:{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
        }
        self.disks = [self.new_image(letter, f"{disk_mib}M") for letter in "abcd"[:disks]]
        self._plain: list[PlainQEMU] = []
        self._clients: list[QMPClient] = []

    # Starting

    def new_image(self, name: str, size: str = "64M", *options: str) -> Path:
        """Make a fresh qcow2 image ``NAME.qcow2``.

        :param size: as ``qemu-img`` takes it.
        :param options: more of ``qemu-img create``'s, for example ``-o``, ``cluster_size=1M``.
        """
        path = self.root / f"{name}.qcow2"
        if options:
            self.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size)
        else:
            _write_with_holes(path, self.qemu.empty_image(size))  # a process less for each disk of each test
        return path

    def tool(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the VM's folder, with this QEMU's own programs first on PATH."""
        return _run(argv, self.env, self.root, check=check)

    def qemu_args(
        self,
        *extra: str,
        disks: DisksBy = "drive",
        cache: str = "writeback",
        accel: Accelerator = "tcg",
        memory_mib: int = 128,
        append: str = "",
    ) -> list[str]:
        """Return the whole command line of a QEMU that runs the guest.

        :param extra: more arguments, at the end.
        :param disks: ``drive``: ``-drive if=virtio``, as people write it; ``blockdev``: nodes disk-a, disk-b (qcow2),
            each with a node of its own for the file (file-a, file-b), on virtio-blk devices virtio-a, virtio-b;
            ``none``: ``extra`` has them.
        :param cache: as in ``-drive cache=``; with ``none`` QEMU reads and writes with O_DIRECT.
        :param append: more words for the Linux guest's kernel command line.
        """
        return [
            "qemu-system-x86_64",
            *("-accel", accel, "-cpu", CPU[accel], "-m", str(memory_mib), "-display", "none", "-nodefaults"),
            *("-chardev", f"file,id=serial-log,path={self.serial_log},append=on", "-serial", "chardev:serial-log"),
            *kernel_args(self.guest, self.root, disks=len(self.disks), pace_ms=self.pace_ms, append=append),
            *self._disk_args(disks, cache),
            *extra,
        ]

    def pflash_args(self, variables: Path, format: str = "qcow2") -> list[str]:
        """Return arguments that make the machine like one with UEFI: firmware in a read-only flash, and beside it a
        writable one for the variables (which SeaBIOS, being no UEFI, leaves alone).

        :param variables: an image of a size that QEMU maps as flash, for example ``new_image("vars", "64K")``.
        """
        return [
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={self.qemu.bios}"),
            *("-drive", f"if=pflash,unit=1,format={format},file={variables}"),
        ]

    def run(self, *extra: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """``snaptree run --detach`` the guest, with ``qemu_args(*extra, **options)``."""
        self.know_qemu()
        return self.cli("run", "--detach", self.name, "--", *self.qemu_args(*extra, **options))

    def know_qemu(self) -> None:
        """Let a home that isn't there yet be one in which this QEMU was asked before: one process less in each test."""
        if not self.home.exists():
            self.home.mkdir(mode=0o700)
            kept = self.home / "emulators.json"
            kept.touch(mode=0o600)
            kept.write_bytes(self.qemu.said())

    def start_plain_qemu(self, *extra: str, inherit: Sequence[int] = (), **options: Any) -> PlainQEMU:
        """Start a QEMU without snaptree, with ``qemu_args(*extra, **options)``.

        :param inherit: descriptors that it shall have, under the same numbers.
        """
        argv = [str(self.qemu.system), *self.qemu_args(*extra, **options)[1:]]
        plain = PlainQEMU(argv, self.env, self.root, len(self._plain), inherit)
        self._plain.append(plain)
        return plain

    # Talking to it

    def cli(self, *args: str, check: bool = True, timeout_s: float = 2 * TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run ``snaptree ARGS…``.

        :raises AssertionError: with ``check``, where the exit code isn't 0; it holds all that was printed.
        """
        __tracebackhide__ = True
        done = warm.run(args, self.env, self.root, timeout_s)
        assert done.returncode == 0 or not check, _told(done)
        return done

    def cli_json(self, *args: str, check: bool = True) -> Any:
        """Run ``snaptree ARGS… --json`` and return its document; of a failure too, without ``check``."""
        done = self.cli(args[0], "--json", *args[1:], check=check)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise AssertionError(f"not one JSON document: {_told(done)}") from error

    def qmp(self, name: str | None = None, *, negotiate: bool = True) -> QMPClient:
        """Connect to the supervisor's socket; closed when the test ends.

        :param name: of another VM of the same home, a fork for example.
        """
        path = self.runtime / "snaptree" / (name or self.name) / "qmp.sock"
        client = QMPClient(path, negotiate=negotiate)
        self._clients.append(client)
        return client

    # What the guest says

    def serial(self, since: int = 0) -> str:
        """Return what the guest said, from the byte ``since`` of the serial log on."""
        with self.serial_log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def serial_end(self) -> int:
        """Return where the serial log ends now: the ``since`` for all that comes later."""
        return self.serial_log.stat().st_size

    def states(self, since: int = 0) -> list[State]:
        """Return the guest's STATE lines."""
        return parse_states(self.serial(since))

    def wait_serial(self, pattern: str, timeout_s: float = TIMEOUT_S, since: int = 0) -> re.Match[str]:
        """Wait until the guest has said something that ``pattern`` (searched, multi-line) matches."""
        return self._wait(
            lambda: re.search(pattern, self.serial(since), re.MULTILINE), f"{pattern!r} on the serial line", timeout_s
        )

    def wait_states(self, count: int, since: int = 0, timeout_s: float = TIMEOUT_S) -> list[State]:
        """Wait until there are ``count`` STATE lines, and return all."""
        return self._wait(
            lambda: states if len(states := self.states(since)) >= count else None, f"{count} STATE lines", timeout_s
        )

    def wait_state_after(self, n: int, since: int = 0, timeout_s: float = TIMEOUT_S) -> State:
        """Wait for a STATE line whose counter is beyond ``n``, and return the first."""
        return self._wait(
            lambda: next((state for state in self.states(since) if state.ram > n), None),
            f"a counter beyond {n}",
            timeout_s,
        )

    def assert_guest_ok(self) -> None:
        """Assert that RAM and disks agreed at all times, and that the guest goes on writing to every disk.

        A guest that wrote to no disk, or to files of its own, would agree with itself as well: QEMU's own count of
        writes has to grow.
        """
        trouble = find_trouble(self.serial())
        assert trouble is None, trouble
        monitor = self._monitor()
        before = _writes(monitor)
        self._wait(
            lambda: sum(now > old for now, old in zip(_writes(monitor), before, strict=True)) >= len(self.disks),
            f"writes to all {len(self.disks)} disks",
        )
        trouble = find_trouble(self.serial())
        assert trouble is None, trouble

    # The end

    def logs(self) -> dict[str, str]:
        """Return the ends of all logs, by file name, and the processes that run."""
        found = {
            "processes": "\n".join(f"{pid}: {processes.command_line(pid)}" for pid in processes.marked(str(self.root)))
        }
        for path in sorted((*self.root.glob("*.log"), *self.home.glob("vms/*/*.log"))):
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                found[str(path.relative_to(self.root))] = log.read().decode(errors="replace")
        return found

    def clean_up(self) -> None:
        """End every process that this VM's test started, and remove its folder; a second time does nothing."""
        for client in self._clients:
            client.close()
        processes.end_marked(str(self.root))
        for plain in self._plain:
            plain.kill()
        if self.root.exists():
            shutil.rmtree(self.root)

    def _disk_args(self, by: DisksBy, cache: str) -> list[str]:
        args: list[str] = []
        for letter, path in zip("abcd", self.disks, strict=False):
            if by == "drive":
                args += ["-drive", f"file={path},format=qcow2,if=virtio,cache={cache}"]
            if by == "blockdev":
                options = f"cache.direct={'on' if cache in ('none', 'directsync') else 'off'},discard=unmap"
                args += ["-blockdev", f"file,node-name=file-{letter},filename={path},{options}"]
                args += ["-blockdev", f"qcow2,node-name=disk-{letter},file=file-{letter},{options}"]
                args += ["-device", f"virtio-blk-pci,drive=disk-{letter},id=virtio-{letter}"]
        return args

    def _wait(self, condition: Callable[[], T | None], what: str, timeout_s: float = TIMEOUT_S) -> T:
        return wait_until(condition, what, timeout_s=timeout_s, broken=self._broken)

    def _broken(self) -> str | None:
        """Say why the guest will say nothing more."""
        running = [plain for plain in self._plain if plain.ended() is None]
        if self._plain and not running and not processes.marked(str(self.root)):
            return self._plain[-1].ended()
        return find_failure(self.serial())

    def _monitor(self) -> QMPClient:
        """Return a QMP client of the QEMU that runs."""
        return next((plain.qmp for plain in self._plain if plain.ended() is None), None) or self.qmp()


class VMFactory(Protocol):
    """Makes a VM; everything that the test started around it is ended with the test."""

    def __call__(
        self, name: str = "dev", *, guest: Guest = "firmware", disks: int = 2, disk_mib: int = 64, pace_ms: int = 100
    ) -> TestVM:
        """Make it; nothing is started.

        :param name: the VM's name for snaptree.
        :param guest: ``firmware`` (0.2 s) or ``linux`` (3 s, a real kernel; the only one with much RAM in use).
        :param disks: how many disks the guest writes, 1 to 4, and with Linux 0.
        :param pace_ms: milliseconds of rest between two rounds of the guest.
        """


def _run(
    argv: Sequence[str], env: dict[str, str], cwd: Path, *, check: bool, timeout_s: float = 2 * TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    __tracebackhide__ = True  # or a report would show the environment
    done = subprocess.run(
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0 or not check, _told(done)
    return done


def _write_with_holes(path: Path, data: bytes) -> None:
    """Write a file that has no blocks where there are zeros only, as ``qemu-img create`` does."""
    with path.open("wb") as file:
        for start in range(0, len(data), _BLOCK_BYTES):
            if any(block := data[start : start + _BLOCK_BYTES]):
                file.seek(start)
                file.write(block)
        file.truncate(len(data))


def _told(done: subprocess.CompletedProcess[str]) -> str:
    return f"{shlex.join(done.args)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def _writes(monitor: QMPClient) -> list[int]:
    """Return how often each block device was written, in QEMU's order."""
    return [int(device["stats"]["wr_operations"]) for device in monitor.execute("query-blockstats")]
