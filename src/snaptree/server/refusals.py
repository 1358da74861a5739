"""QEMU's commands that would go around the lineage, and what to use instead.  Not for: HMP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.vm import VM
from ..model.errors import Refused

_INSTEAD = {
    "snapshot-save": "Use snapshot-create with a name.",
    "blockdev-snapshot-internal-sync": "Use snapshot-create with a name; it takes all devices and RAM.",
    "blockdev-snapshot-delete-internal-sync": "Use snapshot-delete with a name.",
}
_JOB_FORMS = {
    "snapshot-load": "Use snapshot-load with the member 'name' (or 'id') alone.",
    "snapshot-delete": "Use snapshot-delete with the member 'name' (or 'id') alone.",
}


def check_passing(command: str, arguments: Mapping[str, Any]) -> None:
    """Make sure that a command may pass to QEMU.

    :raises Refused: where it would change snapshots behind the catalog.
    """
    remedy = _INSTEAD.get(command) or ("job-id" in arguments and _JOB_FORMS.get(command)) or ""
    if remedy:
        raise Refused(f"QEMU's own {command} would go around the lineage of the snapshots.", remedy)
    if command == "transaction":
        actions = arguments.get("actions")
        for action in actions if isinstance(actions, list) else ():
            kind = action.get("type") if isinstance(action, dict) else None
            if kind == "blockdev-snapshot-internal-sync":
                raise Refused(
                    f"A transaction with {kind} would go around the lineage of the snapshots.", _INSTEAD[kind]
                )


def check_continuing(vm: VM, command: str) -> None:
    """Make sure that nothing continues on disks that don't belong together.

    :raises Refused: where ``command`` would.
    """
    if command == "cont" and vm.broken:
        raise Refused(
            f"The VM cannot continue: a load failed half way. {vm.broken}",
            "Load a snapshot; any whole load makes the VM whole.",
        )


def is_job_form(command: str, arguments: object) -> bool:
    """Say whether this is QEMU's own form of a command whose name is ours too."""
    return command in _JOB_FORMS and isinstance(arguments, dict) and "job-id" in arguments
