"""What a caller asks of a supervisor, and what it is told.  Not for: the QMP that clients speak."""

from __future__ import annotations

from dataclasses import dataclass

from ..qemu.rambackend import Wanted
from .listeners import Address, TLSFiles


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may ask of a supervisor beside the VM.

    :param listen: further addresses to serve at.
    :param tls: for those of them that are TCP.
    :param allow_raw: let QEMU's own snapshot commands pass.
    :param memory: where RAM shall be kept, for a QEMU that we start.
    """

    listen: tuple[Address, ...] = ()
    tls: TLSFiles | None = None
    allow_raw: bool = False
    memory: Wanted = "auto"


@dataclass(frozen=True, slots=True)
class Ready:
    """The VM is served: what a caller wants to know.

    :param notes: sentences for people (a cold start beside a snapshot with RAM, an operation that was finished).
    """

    name: str
    qmp: str
    qemu_pid: int | None
    supervisor_pid: int
    state: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class End:
    """How supervising ended.

    :param words: what happened, for people.
    :param failed: QEMU ended by itself with an error.
    :param qemu_runs: QEMU goes on without us.
    """

    words: str
    failed: bool = False
    qemu_runs: bool = False
