"""Every reason why the VM cannot be snapshotted now, or a snapshot not be loaded.  Not for: finding single reasons."""

from __future__ import annotations

from ..model.reason import Reason
from ..qemu import blockers
from ..qemu.facts import Facts
from .preflight import load_reasons
from .ramway import memory_now
from .vm import VM

__all__ = ["advice", "create_reasons", "load_reasons"]


def create_reasons(vm: VM, facts: Facts) -> tuple[Reason, ...]:
    """Return every reason why no snapshot can be taken now; empty where one can."""
    in_image = memory_now(vm, facts)[0] == "full"
    return (*broken_reasons(vm), *blockers.create_reasons(facts, ram_in_image=in_image))


def broken_reasons(vm: VM) -> tuple[Reason, ...]:
    """Return the reason that a load that failed half way leaves behind."""
    if not vm.broken:
        return ()
    return (
        Reason(
            "load-incomplete",
            f"A load failed half way. {vm.broken}",
            f"Load a snapshot: `snaptree load {vm.place.name} NAME`; any whole load makes the VM whole.",
        ),
    )


def advice(vm: VM, facts: Facts) -> tuple[Reason, ...]:
    """Return what works and should be known all the same."""
    way, why = memory_now(vm, facts)
    slow = Reason(
        "memory-full",
        f"RAM is written into an image at each create, and the VM stands still meanwhile. {why}".strip(),
        "In pages it would take milliseconds: docs/memory.md says what that needs.",
    )
    return (*((slow,) if way == "full" and vm.memory_wanted != "full" else ()), *blockers.advice(facts))
