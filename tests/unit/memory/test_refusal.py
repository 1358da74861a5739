"""A refusal names what the kernel refused it for, and what to do."""

from __future__ import annotations

import os

import pytest
from tests.unit.memory.targets import ANSWER, FILTERED, Target

from snaptree.memory import kernel, refusal
from snaptree.memory.refusal import seccomp_objection

EPERM = PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("uid", "scope", "changes", "message", "remedy"),
    [
        (1000, 0, {}, "runs as user 0, and snaptree as user 1000", "as the same user"),
        (0, 1, {"TracerPid": "77"}, "is traced by process 77 already", "End that one"),
        (0, 3, {}, "ptrace_scope is 3, which forbids it to everybody", "only after a reboot"),
        (1000, 2, {"Uid": "1000 1000 1000 1000"}, "forbids it to all but root", "sysctl kernel.yama.ptrace_scope=1"),
        (
            1000,
            1,
            {"Uid": "1000 1000 1000 1000", "PPid": "1"},
            "is 1, and snaptree did not start it",
            "sysctl kernel.yama.ptrace_scope=0",
        ),
        (1000, 1, {"Uid": "1000 1000 1000 1000"}, "it is not dumpable", "without -runas"),
        (0, 0, {}, "Operation not permitted. A container", "--cap-add SYS_PTRACE"),
    ],
)
def test_the_reason_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, uid: int, scope: int, changes: dict[str, str], message: str, remedy: str
) -> None:
    with Target(ANSWER) as target:
        true = kernel.status(target.pid) | {"Uid": "0 0 0 0"}
        monkeypatch.setattr(refusal, "status", lambda pid: true | changes)
        monkeypatch.setattr(refusal, "ptrace_scope", lambda: scope)
        monkeypatch.setattr("os.geteuid", lambda: uid)
        found = refusal.refusal(target.pid, EPERM)
    assert message in found.message
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("theirs", "ours", "words", "objects"),
    [
        (0, 0, b"qemu", False),
        (1, 0, b"qemu", True),
        (1, 1, b"qemu", False),
        (1, 0, b"qemu\0-sandbox\0on", False),
        (2, 0, b"qemu\0--sandbox\0on", True),
        (2, 1, b"qemu\0-sandbox\0on", False),
        (1, 0, b"qemu\0-name\0sandbox", True),
    ],
)
def test_only_filters_of_qemu_and_of_ours_are_trusted(
    monkeypatch: pytest.MonkeyPatch, theirs: int, ours: int, words: bytes, objects: bool
) -> None:
    filters = {1: theirs, os.getpid(): ours}
    monkeypatch.setattr(
        refusal,
        "status",
        lambda pid: {"Seccomp": "2" if filters[pid] else "0", "Seccomp_filters": str(filters[pid])},
    )
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: words)
    assert (seccomp_objection(1) is not None) == objects


def test_filters_are_counted_as_the_kernel_tells_them() -> None:
    with Target(FILTERED) as target:
        assert seccomp_objection(target.pid) is not None
    with Target(ANSWER) as target:
        assert seccomp_objection(target.pid) is None
