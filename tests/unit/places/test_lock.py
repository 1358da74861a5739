"""The lock that says who looks after a VM: what is in its way is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snaptree.model.errors import SnaptreeError
from snaptree.places.lock import SupervisorLock, holder


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnaptreeError) as failure:
        SupervisorLock.take(tmp_path / "gone" / "lock")
    assert f'The lock "{tmp_path}/gone/lock" cannot be taken: No such file or directory.' in failure.value.message
    assert "writable" in failure.value.remedy


def test_a_lock_is_taken_also_where_no_byte_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = SupervisorLock.take(tmp_path / "lock")
    assert lock is not None
    assert holder(tmp_path / "lock") == "supervisor"
    lock.release()
    assert holder(tmp_path / "lock") is None
