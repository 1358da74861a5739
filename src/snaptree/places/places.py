"""The layout of the home and of the runtime directory.  Not for: what is inside the files.

::

    $SNAPTREE_HOME (else $XDG_STATE_HOME/snaptree, else ~/.local/state/snaptree)
      emulators.json      what QEMU programs have said about themselves; a cache
      vms/VM/
        catalog.sqlite    the catalog (SQLite, with -wal and -shm beside it while the VM is supervised)
        lineage           what the images cannot hold, append-only text
        step              how far the last load has come, where the catalog does not say it yet
        pages/            the page store: RAM of the snapshots that are taken the pages way
        forks/            a file for each fork that stands on a snapshot of this VM
        disks/            of a fork: its images, overlays on its source's
        command.json      the command line, its working directory, and the disks
        running.json      the QEMU process and its supervisor, while QEMU runs; stale after a crash
        lock              held by the supervisor as long as it lives, or by a command on a stopped VM
        supervisor.log  qemu.log  qmp.log     bounded
    $XDG_RUNTIME_DIR/snaptree/VM/ (else $SNAPTREE_HOME/run/VM/)
        qmp.sock          the supervisor's QMP server
        qemu.sock         QEMU's QMP server, for the supervisor alone

Directories have mode 0700, files and sockets 0600.  A VM exists when its folder does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..model.errors import BadName, NoSuchVM, SnaptreeError
from ..model.names import check_vm_name, printable
from .files import private_directory, read_json, write_json
from .lock import holder
from .process import ProcessIdentity

SOCKET_PATH_MAX = 107
"""sizeof(sockaddr_un.sun_path) - 1, unix(7)."""

State = Literal["supervised", "unsupervised", "stopped"]


@dataclass(frozen=True, slots=True)
class Running:
    """What ``running.json`` says.

    :param qemu: QEMU's process; ``None`` where it is not known (attached over TCP).
    :param qemu_qmp: QEMU's QMP address, ``unix:PATH`` or ``tcp:HOST:PORT``.
    :param socket: the supervisor's own socket.
    :param attached: somebody else started this QEMU.
    :param ram: of a fork: where each RAM block lies in QEMU's address space, which its mappings do not tell.
    """

    qemu: ProcessIdentity | None
    qemu_qmp: str
    socket: str
    supervisor_pid: int
    attached: bool
    ram: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VMState:
    """Who looks after the VM now."""

    state: State
    supervisor_pid: int | None
    qemu_pid: int | None
    qmp: str | None


@dataclass(frozen=True, slots=True)
class VMPlace:
    """One VM's folder and sockets."""

    name: str
    directory: Path
    runtime: Path

    @property
    def catalog(self) -> Path:
        """The catalog."""
        return self.directory / "catalog.sqlite"

    @property
    def lineage(self) -> Path:
        """The lineage file."""
        return self.directory / "lineage"

    @property
    def pages(self) -> Path:
        """The page store's directory."""
        return self.directory / "pages"

    @property
    def forks(self) -> Path:
        """A file for each fork that stands on a snapshot of this VM."""
        return self.directory / "forks"

    @property
    def disks(self) -> Path:
        """The images of a fork: overlays on its source's."""
        return self.directory / "disks"

    @property
    def command(self) -> Path:
        """The command line and its working directory."""
        return self.directory / "command.json"

    @property
    def emulators(self) -> Path:
        """What QEMU programs have said about themselves, for all VMs."""
        return self.directory.parent.parent / "emulators.json"

    @property
    def running_file(self) -> Path:
        """The processes."""
        return self.directory / "running.json"

    @property
    def lock(self) -> Path:
        """The supervisor's lock."""
        return self.directory / "lock"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's log."""
        return self.directory / "supervisor.log"

    @property
    def qemu_log(self) -> Path:
        """What QEMU wrote to its standard error."""
        return self.directory / "qemu.log"

    @property
    def qmp_log(self) -> Path:
        """The names of the QMP commands and how they ended."""
        return self.directory / "qmp.log"

    @property
    def qmp_socket(self) -> Path:
        """The supervisor's socket: where the running supervisor has it, else where one would have it."""
        running = self.running()
        return Path(running.socket) if running and running.socket else self.runtime / "qmp.sock"

    @property
    def qemu_socket(self) -> Path:
        """QEMU's own QMP socket where we start it."""
        return self.runtime / "qemu.sock"

    def exists(self) -> bool:
        """Say whether there is such a VM."""
        return self.directory.is_dir()

    def make(self) -> None:
        """Make the folder and the runtime directory, private to the user.

        :raises SnaptreeError: where that can't be, or a socket's path would be too long or hold a colon.
        """
        for path in (self.runtime / "qmp.sock", self.qemu_socket):
            check_socket_path(path)
        for directory in (self.directory.parent.parent, self.directory.parent, self.directory):
            private_directory(directory)
        for directory in (self.runtime.parent, self.runtime):
            private_directory(directory)

    def running(self) -> Running | None:
        """Return what ``running.json`` says, true or stale; ``None`` where there is none or it is unreadable."""
        try:
            value = read_json(self.running_file)
        except SnaptreeError:
            return None
        if value is None:
            return None
        pid, start, boot = value.get("qemu_pid"), value.get("qemu_start"), value.get("boot")
        known = isinstance(pid, int) and isinstance(start, int) and isinstance(boot, str)
        supervisor_pid = value.get("supervisor_pid")
        return Running(
            qemu=ProcessIdentity(pid, start, boot) if known else None,  # type: ignore[arg-type]
            qemu_qmp=str(value.get("qemu_qmp", "")),
            socket=str(value.get("socket", "")),
            supervisor_pid=supervisor_pid if isinstance(supervisor_pid, int) else 0,
            attached=value.get("attached") is True,
            ram=_addresses(value.get("ram")),
        )

    def write_running(self, running: Running) -> None:
        """Write ``running.json``; not durably, since no process that it tells of survives a crash of the host."""
        qemu = running.qemu
        write_json(
            self.running_file,
            {
                "qemu_pid": qemu.pid if qemu else None,
                "qemu_start": qemu.start if qemu else None,
                "boot": qemu.boot if qemu else None,
                "qemu_qmp": running.qemu_qmp,
                "socket": running.socket,
                "supervisor_pid": running.supervisor_pid,
                "attached": running.attached,
                "ram": dict(running.ram),
            },
            durable=False,
        )

    def state(self) -> VMState:
        """Find out who looks after the VM, without disturbing anybody."""
        running = self.running()
        qemu_pid = running.qemu.pid if running and running.qemu and running.qemu.alive() else None
        if holder(self.lock) == "supervisor":
            if running is None:
                return VMState("supervised", None, None, None)
            return VMState("supervised", running.supervisor_pid, qemu_pid, f"unix:{running.socket}")
        if qemu_pid is not None or (running is not None and running.qemu is None and running.attached):
            return VMState("unsupervised", None, qemu_pid, None)
        return VMState("stopped", None, None, None)

    def remove(self) -> None:
        """Remove the folder and the runtime directory."""
        shutil.rmtree(self.runtime, ignore_errors=True)
        shutil.rmtree(self.directory)


@dataclass(frozen=True, slots=True)
class Places:
    """The home and the runtime directory of one user."""

    home: Path
    runtime: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Places:
        """Return the places that the environment names (SNAPTREE_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR)."""
        if environ.get("SNAPTREE_HOME"):
            home = Path(environ["SNAPTREE_HOME"])
        else:
            state = environ.get("XDG_STATE_HOME", "")
            home = (Path(state) if Path(state).is_absolute() else Path.home() / ".local/state") / "snaptree"
        home = home.absolute()
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        usable = Path(runtime).is_absolute() and _usable(Path(runtime))
        return cls(home, Path(runtime) / "snaptree" if usable else home / "run")

    def vm_names(self) -> list[str]:
        """Return the names of all VMs, sorted.

        :raises SnaptreeError: where they can't be listed.
        """
        try:
            entries = [entry.name for entry in os.scandir(self.home / "vms") if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SnaptreeError(
                f"The VMs in {printable(str(self.home / 'vms'), 400)} cannot be listed: {error.strerror}.",
                "SNAPTREE_HOME must be a directory of yours; see what is there.",
            ) from error
        return sorted(name for name in entries if _is_vm_name(name))

    def vm(self, name: str) -> VMPlace:
        """Return the place of the VM ``name``, whether it exists or not.

        :raises BadName: where that can't be a VM's name.
        """
        check_vm_name(name)
        return VMPlace(name, self.home / "vms" / name, self.runtime / name)

    def existing_vm(self, name: str) -> VMPlace:
        """Return the place of the VM ``name``.

        :raises NoSuchVM: where there is none, and names those that look alike.
        """
        place = self.vm(name)
        if place.exists():
            return place
        import difflib  # noqa: PLC0415  only an error needs it

        alike = difflib.get_close_matches(name, self.vm_names(), 3)
        hint = (
            f"Did you mean {' or '.join(alike)}?" if alike else "`snaptree vms` lists them, `snaptree run` makes one."
        )
        raise NoSuchVM(f"There is no VM {printable(name)}.", hint)


def check_socket_path(path: Path) -> Path:
    """Return ``path`` if a socket can be bound there and qmp-shell can name it.

    :raises SnaptreeError: where it is longer than 107 bytes or holds a colon.
    """
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX:
        raise SnaptreeError(
            f"The socket's path {path} has {size} bytes; the kernel takes {SOCKET_PATH_MAX}.",
            "Set XDG_RUNTIME_DIR or SNAPTREE_HOME to a shorter directory, or choose a shorter name for the VM.",
        )
    if ":" in str(path):
        raise SnaptreeError(
            f"The socket's path {path} holds a colon, where QMP clients would split it.",
            "Set XDG_RUNTIME_DIR or SNAPTREE_HOME to a directory without one.",
        )
    return path


def _addresses(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(block): address for block, address in value.items() if isinstance(address, int)}


def _usable(runtime: Path) -> bool:
    try:
        return runtime.stat().st_uid == os.geteuid()
    except OSError:
        return not runtime.exists() and os.access(runtime.parent, os.W_OK)


def _is_vm_name(name: str) -> bool:
    try:
        check_vm_name(name)
    except BadName:
        return False
    return True
