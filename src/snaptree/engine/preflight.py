"""Every reason why a load of a snapshot would not be whole, before anything is touched.  Not for: taking one.

QEMU reverts one disk after the other and only then reads the VM state, so what it finds out itself it finds out with
the disks reverted already; and some of this it never finds out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ..model.names import printable
from ..model.reason import Reason
from ..model.snapshot import Device, Machine, Snapshot
from ..qemu.blockdevs import BlockDevice
from ..qemu.blockers import capability_reasons, shared_reasons
from ..qemu.capabilities import BREAKS_LOAD
from ..qemu.facts import Facts
from ..qemu.runstates import why_no_load
from .entries import tag_is_id

SHOWN_MAX = 8


def load_reasons(facts: Facts, snapshot: Snapshot, *, allow_resize: bool = False) -> tuple[Reason, ...]:
    """Return every reason why ``snapshot`` cannot be loaded now; empty where it can.

    :param allow_resize: the user agrees that disks that were resized since get the size back that they had.
    """
    return (
        *_snapshot(snapshot),
        *_run_state(facts),
        *shared_reasons(facts),
        *capability_reasons(facts, BREAKS_LOAD),
        # Where QEMU doesn't list its nodes nothing can be said of any device; a reason says so already.
        *(() if facts.nodes_error else _devices(facts, snapshot, allow_resize)),
        *_machine(facts.machine, snapshot.machine),
    )


def presence(facts: Facts, snapshot: Snapshot) -> frozenset[str]:
    """Return the recorded devices whose image holds the snapshot now."""
    here = {device.device: device for device in facts.devices}
    return frozenset(
        recorded.device
        for recorded in snapshot.devices
        if recorded.device in here and here[recorded.device].holding(snapshot.tag)
    )


def _snapshot(snapshot: Snapshot) -> Iterator[Reason]:
    if snapshot.flaw:
        yield Reason("flawed", f"{snapshot.name} is not whole: {snapshot.flaw}", "Load another snapshot.")
    if snapshot.memory == "none":
        yield Reason(
            "disks-only",
            f"{snapshot.name} holds disks only, no RAM: it cannot be loaded while the VM runs.",
            "Stop the VM (`snaptree stop`), load it (`snaptree load`), and start the VM again: its disks go back.",
        )


def _run_state(facts: Facts) -> Iterator[Reason]:
    why = why_no_load(facts.run_state)
    if why:
        yield Reason("run-state", f"The VM's run state is {facts.run_state}: {why[0]}.", why[1])


def _devices(facts: Facts, snapshot: Snapshot, allow_resize: bool) -> Iterator[Reason]:
    here = {device.device: device for device in facts.devices}
    by_file = {device.file: device for device in facts.devices}
    for recorded in snapshot.devices:
        device = here.get(recorded.device)
        if device is None:
            yield _gone(facts, recorded, by_file)
        else:
            yield from _device(device, recorded, snapshot, by_file)
            if not allow_resize:
                yield from _size(device, recorded)
    yield from _new(facts, snapshot)
    if snapshot.memory != "none":
        yield from _vm_state(here, snapshot)
        yield from _vm_clock(here, snapshot)


def _gone(facts: Facts, recorded: Device, by_file: Mapping[str, BlockDevice]) -> Reason:
    name, file = recorded.device, printable(recorded.file)
    if name in facts.closed:
        why, remedy = "QEMU has closed its image as corrupt", "Quit QEMU and check the image with `qemu-img check`."
    elif any(device.device == name for device in facts.read_only):
        why, remedy = "is read-only now", "Attach it writable, as it was."
    elif recorded.file in by_file:
        other = by_file[recorded.file].device
        why, remedy = f"its image {file} is attached as {other}", f"Attach it as {name}, as it was."
    else:
        why, remedy = "is not attached", f"Attach its image {file} as {name}, as it was."
    return Reason("device-gone", f"The snapshot holds {name}, which {why}.", remedy, name)


def _device(
    device: BlockDevice, recorded: Device, snapshot: Snapshot, by_file: Mapping[str, BlockDevice]
) -> Iterator[Reason]:
    name = device.device
    if recorded.file and device.file != recorded.file and recorded.file in by_file:
        other = by_file[recorded.file].device
        yield Reason(
            "image-swapped",
            f"The image that {name} had, {printable(recorded.file)}, is attached as {other} now.",
            "Attach the images as they were.",
            name,
        )
    yield from tag_is_id(name, snapshot.tag, device.snapshots)
    found = len(device.holding(snapshot.tag))
    if found > 1:
        yield Reason(
            "tag-twice",
            f"The image of {name}, {printable(device.file)}, has {found} snapshots of the tag"
            f" {printable(snapshot.tag)}: which one QEMU would load is chance.",
            "Load another snapshot; quit QEMU to see with `qemu-img snapshot -l` which one is too many.",
            name,
        )
    if not found:
        yield _missing(device, snapshot)


def _missing(device: BlockDevice, snapshot: Snapshot) -> Reason:
    name = device.device
    below = next((image for image in device.backing if snapshot.tag in image.tags), None)
    if below is not None and device.temporary:
        return Reason(
            "temporary",
            f"QEMU was started with -snapshot: the snapshot is in the image of {name}, {printable(below.file)}, and not"
            " in the throw-away overlay on top of it.",
            "Start QEMU without -snapshot (snapshot=on).",
            name,
        )
    if below is not None:
        return Reason(
            "overlay",
            f"An overlay, {printable(device.file)}, was put on top of the image of {name}: the snapshot is in"
            f" {printable(below.file)} below it, where QEMU cannot load it.",
            "Commit the overlay into the image below (`block-commit`), or start QEMU with that image; what was written"
            " since is in the overlay.",
            name,
        )
    return Reason(
        "tag-missing",
        f"The image of {name}, {printable(device.file)}, does not hold the snapshot {snapshot.name}.",
        "Load another snapshot; `snaptree show` says where each one is.",
        name,
    )


def _size(device: BlockDevice, recorded: Device) -> Iterator[Reason]:
    if recorded.size and device.size != recorded.size:
        what = (
            "shrunk to that again, and what is behind its end is lost" if device.size > recorded.size else "that again"
        )
        yield Reason(
            "resized",
            f"{device.device} has {device.size} bytes now and had {recorded.size} in the snapshot; it would be {what}.",
            "Load it with --allow-resize if that is right.",
            device.device,
        )


def _new(facts: Facts, snapshot: Snapshot) -> Iterator[Reason]:
    known = {recorded.device for recorded in snapshot.devices}
    for device in facts.devices:
        if device.device not in known:
            yield Reason(
                "device-new",
                f"{device.device} ({printable(device.file)}) is writable, and the snapshot does not hold it: it would"
                " stay as it is now, while RAM and the other disks go back.",
                "Detach it, or attach it read-only.",
                device.device,
            )


def _vm_state(here: Mapping[str, BlockDevice], snapshot: Snapshot) -> Iterator[Reason]:
    holders = [
        name for name, device in here.items() if any(found.vm_state_size for found in device.holding(snapshot.tag))
    ]
    recorded = snapshot.vmstate_device
    # Where the device that had it lacks the snapshot altogether, there is a reason for that already.
    suspects = [device for name, device in here.items() if not recorded or name == recorded]
    if not holders and any(device.holding(snapshot.tag) for device in suspects):
        yield Reason(
            "vm-state-missing",
            f"No device holds the VM state of {snapshot.name}: RAM and devices cannot be loaded.",
            "Load another snapshot.",
            recorded or None,
        )
    elif recorded and holders and holders != [recorded]:
        yield Reason(
            "vm-state-elsewhere",
            f"The VM state of {snapshot.name} is on {', '.join(holders)}, and was written to {recorded}.",
            "Attach the images as they were, or load another snapshot.",
            recorded,
        )


def _vm_clock(here: Mapping[str, BlockDevice], snapshot: Snapshot) -> Iterator[Reason]:
    clocks = {
        recorded.device: {found.vm_clock_ns for found in here[recorded.device].holding(snapshot.tag)}
        for recorded in snapshot.devices
        if recorded.device in here
    }
    seen = set().union(*clocks.values())
    if len(seen) > 1:
        each = ", ".join(f"{name} {min(times) / 10**9:.3f} s" for name, times in clocks.items() if times)
        yield Reason(
            "vm-clock",
            f"The devices' parts of {snapshot.name} are of different moments of the VM's clock: {each}.",
            "Load another snapshot.",
        )
    elif snapshot.vm_clock_ns and seen and seen != {snapshot.vm_clock_ns}:
        yield Reason(
            "vm-clock",
            f"The images hold another snapshot under the tag of {snapshot.name}: its VM clock says"
            f" {seen.pop() / 10**9:.3f} s, and {snapshot.vm_clock_ns / 10**9:.3f} s was recorded.",
            "Load another snapshot.",
        )


def _machine(now: Machine, then: Machine) -> Iterator[Reason]:
    """Compare what is known on both sides."""
    back = "Start QEMU as it was then."
    if then.machine and now.machine and now.machine != then.machine:
        yield Reason(
            "machine",
            f"The machine type is {now.machine}, and was {then.machine} in the snapshot.",
            f"Start QEMU with -machine {then.machine}.",
        )
    if then.ram_size and now.ram_size and now.ram_size != then.ram_size:
        yield Reason(
            "ram-size",
            f"The VM has {_mib(now.ram_size)} MiB of RAM, and had {_mib(then.ram_size)} MiB in the snapshot.",
            f"Start QEMU with -m {_mib(then.ram_size)}M; RAM that was plugged since must be unplugged.",
        )
    if then.cpu and now.cpu and now.cpu != then.cpu:
        yield Reason("cpu", _cpu(now.cpu, then.cpu), "Start QEMU with the -cpu and -accel of then.")
    if then.cpus and now.cpus and now.cpus != then.cpus:
        yield Reason(
            "cpus",
            f"The VM has {now.cpus} CPUs, and had {then.cpus} in the snapshot.",
            f"Start QEMU with -smp {then.cpus}; CPUs that were plugged since must be unplugged.",
        )
    if then.devices and now.devices and now.devices != then.devices:
        added, missing = Counter(now.devices) - Counter(then.devices), Counter(then.devices) - Counter(now.devices)
        said = [f"{word} {_list(items)}" for word, items in (("added", added), ("missing", missing)) if items]
        yield Reason("devices", f"The VM's devices are not those of the snapshot: {'; '.join(said)}.", back)


def _cpu(now: str, then: str) -> str:
    new, old = now.split(), then.split()
    if new[:2] == old[:2]:
        return f"The CPU ({new[0]}) has other features than in the snapshot."
    return f"The CPU is {' under '.join(new[:2])}, and was {' under '.join(old[:2])} in the snapshot."


def _list(items: Counter[str]) -> str:
    words = [printable(item) for item in sorted(items.elements())]
    return ", ".join(words[:SHOWN_MAX]) + (f" and {len(words) - SHOWN_MAX} more" if len(words) > SHOWN_MAX else "")


def _mib(size: int) -> int:
    return size // 1024**2
