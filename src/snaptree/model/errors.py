"""Every error that snaptree raises, as one tree.  Not for: formatting or printing them.

::

    SnaptreeError                  1    failed
     ├── UsageError                2    usage
     │    ├── BadName              2    bad-name
     │    └── AmbiguousId          2    ambiguous-id
     ├── NotFound                  3    not-found
     │    ├── NoSuchVM             3    no-such-vm
     │    └── NoSuchSnapshot       3    no-such-snapshot
     ├── Refused                   4    refused            (nothing was changed)
     │    ├── NameTaken            4    name-taken
     │    ├── NotReady             4    not-ready          (carries the reasons)
     │    ├── Busy                 4    busy
     │    ├── VMRuns               4    vm-runs
     │    ├── VMNotRunning         4    vm-not-running
     │    └── OtherDisks           4    other-disks
     ├── DamageFound               5    damage-found
     ├── QEMUFailed                1    qemu-failed        (QEMU's own words inside)
     │    ├── QEMUStartFailed      1    qemu-start-failed
     │    └── QEMUGone             1    qemu-gone
     ├── LoadIncomplete            1    load-incomplete    (the VM stays paused)
     ├── CatalogError              1    catalog
     ├── PageStoreError            1    page-store
     │    └── PagesDamaged         1    pages-damaged
     ├── ImageError                1    image
     ├── ProtocolError             1    protocol
     └── Interrupted             130    interrupted

The exit code of the command line and the stable ``code`` of ``--json`` and QMP are attributes of the class;
the manual's table of exit codes is made from this tree.

This tree is what travels: the classes of this module, each with a code of its own.  Another room may have finer classes
below one of them, without a code of their own; to a client they arrive as the nearest class that stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from .reason import Reason


class SnaptreeError(Exception):
    """What went wrong, where and why, in one or two sentences, and what to do now.

    :param message: what, where, why; names the thing with its value.
    :param remedy: what the user can do now; a sentence, may be empty where there is nothing to do.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"
    meaning: ClassVar[str] = "failed"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(SnaptreeError):
    """The command or its arguments are not of the right form."""

    exit_code = 2
    code = "usage"
    meaning = "usage: the command line or a name is not of the right form"


class BadName(UsageError):
    """A name that may not be a snapshot's or a VM's name."""

    code = "bad-name"


class AmbiguousId(UsageError):
    """A prefix that more than one id begins with."""

    code = "ambiguous-id"


class NotFound(SnaptreeError):
    """There is nothing of that name or id."""

    exit_code = 3
    code = "not-found"
    meaning = "no such VM or snapshot"


class NoSuchVM(NotFound):
    """There is no VM of that name."""

    code = "no-such-vm"


class NoSuchSnapshot(NotFound):
    """The VM has no snapshot of that name or id."""

    code = "no-such-snapshot"


class Refused(SnaptreeError):
    """Not possible now; nothing was changed."""

    exit_code = 4
    code = "refused"
    meaning = "refused, nothing was changed (cannot be snapshotted now, name taken, devices don't agree)"


class NameTaken(Refused):
    """A snapshot of that name is there already."""

    code = "name-taken"


class NotReady(Refused):
    """The VM cannot be snapshotted, or that snapshot not be loaded, now; ``reasons`` holds every reason."""

    code = "not-ready"

    def __init__(self, message: str, remedy: str = "", reasons: tuple[Reason, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.reasons = reasons


class Busy(Refused):
    """Another command works on the VM, and the caller did not want to wait."""

    code = "busy"


class VMRuns(Refused):
    """The VM runs already."""

    code = "vm-runs"


class VMNotRunning(Refused):
    """The VM does not run, or nobody supervises it."""

    code = "vm-not-running"


class OtherDisks(Refused):
    """The VM of that name has other disks."""

    code = "other-disks"


class DamageFound(SnaptreeError):
    """A check found damage."""

    exit_code = 5
    code = "damage-found"
    meaning = "`check` found damage"


class QEMUFailed(SnaptreeError):
    """QEMU answered with an error; the message holds QEMU's own words."""

    code = "qemu-failed"


class QEMUStartFailed(QEMUFailed):
    """QEMU ended before it could be used; the message holds QEMU's own words."""

    code = "qemu-start-failed"


class QEMUGone(QEMUFailed):
    """QEMU ended, or its QMP connection broke, while it was needed."""

    code = "qemu-gone"


class LoadIncomplete(SnaptreeError):
    """A load failed after the first device was changed; the VM stays paused."""

    code = "load-incomplete"


class CatalogError(SnaptreeError):
    """The catalog cannot be read or written."""

    code = "catalog"


class PageStoreError(SnaptreeError):
    """The store of a VM's RAM pages cannot be read or written."""

    code = "page-store"


class PagesDamaged(PageStoreError):
    """A file of the page store is missing, cut, or not what was written."""

    code = "pages-damaged"


class ImageError(SnaptreeError):
    """A disk image cannot be read, or is not what it should be."""

    code = "image"


class ProtocolError(SnaptreeError):
    """A peer does not speak QMP, or broke off."""

    code = "protocol"


class Interrupted(SnaptreeError):
    """The user interrupted the command."""

    exit_code = 130
    code = "interrupted"
    meaning = "interrupted"


def all_errors(root: type[SnaptreeError] = SnaptreeError) -> Iterator[type[SnaptreeError]]:
    """Yield ``root`` and every class of this module below it, parents first; whatever else was imported."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == __name__:
            yield from all_errors(child)


def exit_codes() -> dict[int, str]:
    """Return the exit codes and what they mean, 0 included, in ascending order."""
    table = {0: "done"}
    for error in all_errors():
        table.setdefault(error.exit_code, error.meaning)
    return dict(sorted(table.items()))


def from_code(code: str, message: str, remedy: str = "") -> SnaptreeError:
    """Make the error of the class whose stable code is ``code``; an unknown code makes a SnaptreeError."""
    for error in all_errors():
        if error.code == code:
            return error(message, remedy)
    return SnaptreeError(message, remedy)
