"""Every reason why the VM cannot be snapshotted now, and what works but should be known.  Not for: loading.

QEMU finds most of these out too, one at a time, some of them only after it has written all RAM, and some never.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from ..model.names import printable
from ..model.reason import Reason
from .blockdevs import BlockDevice
from .blockgraph import COPY_BEFORE_WRITE, LOCAL_DRIVERS, QCOW2
from .capabilities import BREAKS_SAVE
from .facts import Facts
from .runstates import why_no_create

VM_STATE_MARGIN_BYTES = 64 * 1024**2
"""What a VM state takes beside RAM: device state, video memory, qcow2's own tables."""
MANY_SNAPSHOTS = 100
LARGE_IMAGE_BYTES = 16 * 1024**3
SMALL_CLUSTER_BYTES = 64 * 1024

MIGRATION_RUNS = frozenset(
    {
        "setup",
        "cancelling",
        "active",
        "postcopy-active",
        "postcopy-paused",
        "postcopy-recover-setup",
        "postcopy-recover",
        "colo",
        "pre-switchover",
        "device",
        "wait-unplug",
    }
)
"""``migration_is_running`` in QEMU's migration.c; a finished snapshot-save leaves ``completed``, too."""


def create_reasons(facts: Facts, *, ram_in_image: bool = True) -> tuple[Reason, ...]:
    """Return every reason why no snapshot can be taken now; empty where one can.

    :param ram_in_image: RAM goes into the VM state; else it needs no room there.
    """
    return (
        *_run_state(facts),
        *shared_reasons(facts),
        *capability_reasons(facts, BREAKS_SAVE),
        *(reason for device in facts.devices for reason in _device(device)),
        *_vmstate(facts),
        *(_space(facts) if ram_in_image else ()),
    )


def advice(facts: Facts) -> tuple[Reason, ...]:
    """Return what works and should be known all the same."""
    return tuple(reason for device in facts.devices for reason in _advice(device))


def choose_vmstate_device(facts: Facts) -> BlockDevice | None:
    """Return the device whose image is to hold the VM state: the first qcow2 that is no flash memory.

    Left to itself QEMU may put all RAM into the image of the UEFI variables.
    """
    return next((device for device in facts.devices if _can_hold_state(device)), None)


def shared_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Return the reasons that stand against taking and against loading alike."""
    return (
        *_unlisted(facts),
        *_jobs(facts),
        *_migration(facts),
        *(reason for device in facts.devices for reason in (*_bitmaps(device), *_backup(facts, device))),
    )


def _run_state(facts: Facts) -> Iterator[Reason]:
    why = why_no_create(facts.run_state)
    if why:
        yield Reason("run-state", f"The VM's run state is {facts.run_state}: {why[0]}.", why[1])


def _unlisted(facts: Facts) -> Iterator[Reason]:
    for device in facts.closed:
        yield Reason(
            "corrupt",
            f"QEMU has found the image of {device} corrupt, and closed it.",
            "Quit QEMU, and check the image: `qemu-img check` says what is wrong with it.",
            device,
        )
    if facts.nodes_error and not facts.closed:
        yield Reason(
            "block-nodes",
            f"QEMU does not list its block nodes, so what a snapshot must hold is not known. {facts.nodes_error}",
            "Start QEMU without -compat unstable-input=reject; if it was, see what QEMU says.",
        )


def _jobs(facts: Facts) -> Iterator[Reason]:
    names = {device.device for device in facts.devices}
    for job in facts.block_jobs:
        # Newer QEMUs would load all the same, and the job's target would go stale without a word.
        yield Reason(
            "block-job",
            f"The block job {printable(job.id)} ({job.kind}) works on the disks.",
            f"Wait for its end, or end it: `block_job_cancel {job.id}` in the monitor.",
            job.id if job.id in names else None,
        )
    for job in facts.jobs:
        yield Reason(
            "job",
            f"QEMU's job {printable(job.id)} ({job.kind}) is {job.status}.",
            "Wait for its end; `query-jobs` shows it.",
        )


def _migration(facts: Facts) -> Iterator[Reason]:
    if facts.migration in MIGRATION_RUNS:
        yield Reason(
            "migration",
            f"A migration of the VM is under way ({facts.migration}).",
            "Wait for its end, or end it: `migrate_cancel` in the monitor.",
        )
    for why in facts.blocked:
        yield Reason(
            "migration-blocked",
            f"QEMU cannot save and load the state of this VM: {printable(why, 300)}.",
            "Unplug that device, or end that use of it; QEMU cannot migrate such a VM either.",
        )


def capability_reasons(facts: Facts, harmful: Mapping[str, str]) -> Iterator[Reason]:
    """Yield a reason for each migration capability that is on and harmful.

    :param harmful: why, by name.
    """
    for name in sorted(facts.capabilities & harmful.keys()):
        yield Reason(
            "capability",
            f"The migration capability {name} is on: {harmful[name]}.",
            f"Turn it off: `migrate_set_capability {name} off` in the monitor.",
        )


def _bitmaps(device: BlockDevice) -> Iterator[Reason]:
    for bitmap in device.bitmaps:
        # QEMU would find it only while loading, with the devices before this one already reverted.
        yield Reason(
            "bitmap",
            f"{device.device} has the dirty bitmap {printable(bitmap.name)}; no snapshot can be loaded with it there.",
            'Remove it: {"execute": "block-dirty-bitmap-remove", "arguments": '
            f'{{"node": "{bitmap.node}", "name": "{bitmap.name}"}}}}. The next backup is a full one then.',
            device.device,
        )


def _backup(facts: Facts, device: BlockDevice) -> Iterator[Reason]:
    if COPY_BEFORE_WRITE in device.filters and not facts.block_jobs:
        yield Reason(
            "backup",
            f"A backup of {device.device} is being kept (a {COPY_BEFORE_WRITE} filter): a load would change the disk"
            " below it, and the backup would be of no moment.",
            f"End it: remove the {COPY_BEFORE_WRITE} node.",
            device.device,
        )


def _device(device: BlockDevice) -> Iterator[Reason]:
    name = device.device
    if device.temporary:
        yield Reason(
            "temporary",
            f"{name} is the throw-away overlay of -snapshot: it, and every snapshot in it, is lost when QEMU ends.",
            "Start QEMU without -snapshot (snapshot=on); a snapshot taken at the start brings back the disk as it was.",
            name,
        )
    if device.driver != QCOW2:
        yield _not_qcow2(device)
    if device.external_data_file:
        yield Reason(
            "external-data-file",
            f"{name} keeps its data in another file, {printable(device.external_data_file)}: QEMU cannot snapshot it.",
            f"Convert it: {_convert(device)} and start QEMU with the new image.",
            name,
        )
    if device.corrupt:
        yield Reason(
            "corrupt",
            f"The image of {name}, {printable(device.file)}, is marked as corrupt.",
            "Quit QEMU, and check the image: `qemu-img check` says what is wrong with it.",
            name,
        )


def _not_qcow2(device: BlockDevice) -> Reason:
    name = device.device
    what = f"{name} ({printable(device.file)}) is writable and {device.driver}, which cannot hold snapshots."
    if device.is_pflash:
        return Reason(
            "not-qcow2",
            f"The flash memory {what}",
            f"Convert it: {_convert(device)} and give it to QEMU as format=qcow2; or make it read-only, where the guest"
            " needs to store no UEFI variables.",
            name,
        )
    if not device.qdev and device.root == name:
        return Reason(
            "not-qcow2",
            f"The block node {what}",
            f"Nothing uses it: remove it with `blockdev-del` (node-name {printable(name)}), or open it read-only.",
            name,
        )
    if device.driver in LOCAL_DRIVERS or device.driver == "raw":
        how = f"Convert it: {_convert(device)} and start QEMU with the new image; or attach it read-only."
    else:
        how = "Convert it with `qemu-img convert -O qcow2` and start QEMU with the new image; or attach it read-only."
    return Reason("not-qcow2", what, how, name)


def _convert(device: BlockDevice) -> str:
    if not (device.file.startswith("/") and device.file.isprintable()):
        return "`qemu-img convert -O qcow2`"
    form = QCOW2 if device.driver == QCOW2 else "raw"
    ending = ".plain.qcow2" if form == QCOW2 else ".qcow2"
    source, target = shlex.quote(device.file), shlex.quote(device.file + ending)
    return f"`qemu-img convert -f {form} -O qcow2 {source} {target}`, while QEMU doesn't run,"


def _can_hold_state(device: BlockDevice) -> bool:
    return device.driver == QCOW2 and device.writable and not (device.is_pflash or device.external_data_file)


def _vmstate(facts: Facts) -> Iterator[Reason]:
    if facts.nodes_error or facts.run_state == "preconfig" or choose_vmstate_device(facts):
        return
    flash = any(device.is_pflash and device.driver == QCOW2 for device in facts.devices)
    yield Reason(
        "no-vmstate-device",
        "No writable qcow2 disk is there to hold RAM and device state"
        + (" (flash memory is not used for it)." if flash else "."),
        "Give QEMU one: a small one that the guest never sees is enough: `qemu-img create -f qcow2 state.qcow2 1M`, and"
        " `-drive if=none,id=state,file=state.qcow2`.",
    )


def _space(facts: Facts) -> Iterator[Reason]:
    device = choose_vmstate_device(facts)
    if device is None or device.host_free_bytes is None or not facts.vm_state_max_bytes:
        return
    needed = facts.vm_state_max_bytes + VM_STATE_MARGIN_BYTES
    if device.host_free_bytes < needed:
        yield Reason(
            "space",
            f"The VM state needs up to {_mib(needed)} MiB, and the file system of {device.device}"
            f" ({printable(device.file)}) has {_mib(device.host_free_bytes)} MiB left.",
            "Free some space there, or delete snapshots.",
            device.device,
        )


def _advice(device: BlockDevice) -> Iterator[Reason]:
    name = device.device
    if device.discard_lost:
        yield Reason(
            "discard",
            f"Deleting snapshots frees no space on the host: the file node of {name} ignores discards.",
            f"Start QEMU with discard=unmap on the -blockdev of {printable(device.file)}.",
            name,
        )
    if len(device.snapshots) > MANY_SNAPSHOTS:
        yield Reason(
            "many-snapshots",
            f"{name} has {len(device.snapshots)} snapshots; QEMU writes the whole list at every create and delete, so"
            " each takes longer than the one before.",
            "Delete those that you no longer need.",
            name,
        )
    if device.allocated_bytes >= LARGE_IMAGE_BYTES and 0 < device.cluster_size <= SMALL_CLUSTER_BYTES:
        yield Reason(
            "small-clusters",
            f"{name} has {device.allocated_bytes // 1024**3} GiB in clusters of {device.cluster_size // 1024} KiB, and"
            " QEMU touches every cluster's reference count at each create and load.",
            "An image with larger clusters is faster: `qemu-img convert -O qcow2 -o cluster_size=1M`.",
            name,
        )


def _mib(size: int) -> int:
    return size // 1024**2
