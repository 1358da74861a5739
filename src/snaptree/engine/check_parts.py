"""What a check says of the parts of one snapshot: whole, of one moment, with VM state.  Not for: foreign ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..model.names import printable
from ..model.snapshot import Snapshot
from .check_findings import Finding, shown
from .check_images import Images

DELETE_IT = "It cannot be loaded; delete it, or put the image back from a backup."


def parts(images: Images, name: str, id: str | None, tag: str, devices: Iterable[str]) -> Iterator[Finding]:
    """Say on which devices the tag is missing or more than once."""
    for device in devices:
        count, where = images.cell(tag, device).count, shown(device)
        if not count:
            yield Finding(
                "missing-on-device", f"{where} does not hold {printable(name, 255)}.", DELETE_IT, name, id, device
            )
        elif count > 1:
            yield Finding(
                "tag-twice",
                f"{where} holds {printable(tag, 255)} {count} times: which one QEMU would load is chance.",
                "`qemu-img snapshot -l` shows them; delete by QEMU's id the one that is too many.",
                name,
                id,
                device,
            )


def clocks(images: Images, name: str, id: str | None, tag: str, *, recorded: int = 0) -> Iterator[Finding]:
    """Compare the VM clocks, which QEMU writes alike onto all devices of a snapshot with RAM."""
    clocks_of = {device: {e.vm_clock_ns for e, _ in found} for device, found in images.here(tag).items()}
    seen = set().union(*clocks_of.values()) if clocks_of else set()
    if len(seen) > 1:
        each = ", ".join(f"{shown(device)} {min(times) / 10**9:.3f} s" for device, times in clocks_of.items())
        message = f"The devices' parts of {printable(name, 255)} are of different moments of the VM's clock: {each}."
    elif recorded and seen and seen != {recorded}:
        clock = next(iter(seen)) / 10**9
        message = f"The images' {name} is of another moment: VM clock {clock:.3f} s; {recorded / 10**9:.3f} s recorded."
    else:
        return
    yield Finding("clock-differs", message, DELETE_IT, name, id)


def vm_state(images: Images, snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the device that had the VM state has it, and that it is one."""
    holders = [
        device for device, found in images.here(snapshot.tag).items() if any(entry.vm_state_size for entry, _ in found)
    ]
    recorded = snapshot.vmstate_device
    # Where an image cannot be read there is a finding already, and what it holds nobody knows.
    unknown = not all(images.readable(device.device) for device in snapshot.devices)
    if not holders and not unknown:
        yield no_state(snapshot.name, snapshot.id, None, "No device holds its VM state.")
    elif holders and recorded and recorded not in holders and not unknown:
        where = ", ".join(holders)
        yield no_state(
            snapshot.name, snapshot.id, recorded, f"Its VM state was written to {recorded}, and is on {where}."
        )
    yield from damaged_states(images, snapshot.name, snapshot.id, snapshot.tag)


def damaged_states(images: Images, name: str, id: str | None, tag: str) -> Iterator[Finding]:
    """Name every VM state that is none."""
    for device, found in images.here(tag).items():
        for _, kind in found:
            if kind not in ("", "full", "pages"):
                yield Finding("vm-state-damaged", kind, DELETE_IT, name, id, device)


def no_state(name: str, id: str, device: str | None, why: str) -> Finding:
    """Return the finding that a snapshot's VM state is not where it must be."""
    return Finding("no-vm-state", f"The RAM of {printable(name, 255)} is lost. {why}", DELETE_IT, name, id, device)
