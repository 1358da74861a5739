"""Every command of QEMU's: one QEMU is asked directly, another of the same kind through us, and both say the same.

Queries are in the tests of passing; here is what changes something, or fails to.
"""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.qmp.serving import answer, served
from tests.functional.qmp.test_qmp_refusals import by_node
from tests.functional.traps.safety import plain_qemu

Arguments = dict[str, Any]
NO: Arguments = {"id": "no-such"}
NO_DEVICE: Arguments = {"device": "no-such"}
NULL: Arguments = {"driver": "null-co", "node-name": "null", "read-zeroes": True}
BITMAP: Arguments = {"node": "disk-a", "name": "bitmap"}
RING: Arguments = {"type": "ringbuf", "data": {"size": 64}}
COPY: Arguments = {"device": "no-such", "job-id": "j", "target": "null", "sync": "full"}

SCRIPT: tuple[tuple[str, Arguments], ...] = (
    # Block nodes and bitmaps
    ("blockdev-add", NULL),
    ("blockdev-add", NULL),
    ("blockdev-reopen", {"options": [NULL]}),
    ("block-dirty-bitmap-add", BITMAP),
    ("block-dirty-bitmap-add", {**BITMAP, "name": "other"}),
    ("block-dirty-bitmap-merge", {"node": "disk-a", "target": "bitmap", "bitmaps": ["other"]}),
    ("block-dirty-bitmap-disable", BITMAP),
    ("block-dirty-bitmap-enable", BITMAP),
    ("block-dirty-bitmap-clear", BITMAP),
    ("x-debug-block-dirty-bitmap-sha256", BITMAP),
    ("block-dirty-bitmap-remove", BITMAP),
    ("block-dirty-bitmap-remove", {**BITMAP, "name": "other"}),
    ("transaction", {"actions": [{"type": "block-dirty-bitmap-add", "data": BITMAP}]}),
    ("block-dirty-bitmap-remove", BITMAP),
    ("block-set-write-threshold", {"node-name": "disk-a", "write-threshold": 0}),
    ("block_resize", {"node-name": "disk-a", "size": 64 << 20}),
    ("block_resize", {"node-name": "disk-a", "size": -1}),
    ("block_set_io_throttle", {**NO, **dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)}),
    ("block-latency-histogram-set", NO),
    ("blockdev-set-active", {"node-name": "null", "active": True}),
    ("blockdev-create", {"job-id": "c", "options": {"driver": "null-co"}}),
    ("x-blockdev-amend", {"job-id": "c", "node-name": "no-such", "options": {"driver": "qcow2"}}),
    ("x-blockdev-change", {"parent": "no-such"}),
    ("x-blockdev-set-iothread", {"node-name": "no-such", "iothread": None}),
    ("change-backing-file", {**NO_DEVICE, "image-node-name": "no-such", "backing-file": "x"}),
    *((f"blockdev-{verb}", NO) for verb in ("open-tray", "close-tray", "remove-medium")),
    ("blockdev-insert-medium", {**NO, "node-name": "null"}),
    ("blockdev-change-medium", {**NO, "filename": "no-such"}),
    ("eject", NO),
    ("blockdev-snapshot", {"node": "no-such", "overlay": "null"}),
    ("blockdev-snapshot-sync", {**NO_DEVICE, "snapshot-file": "no-such"}),
    # Jobs, exports
    ("block-commit", {**NO_DEVICE, "job-id": "j"}),
    ("block-stream", {**NO_DEVICE, "job-id": "j"}),
    *((name, COPY) for name in ("blockdev-backup", "blockdev-mirror", "drive-backup", "drive-mirror")),
    *((f"block-job-{verb}", NO_DEVICE) for verb in ("cancel", "complete", "pause", "resume")),
    *((f"block-job-{verb}", NO) for verb in ("dismiss", "finalize")),
    ("block-job-set-speed", {**NO_DEVICE, "speed": 1}),
    ("block-job-change", {**NO, "type": "mirror", "copy-mode": "write-blocking"}),
    *((f"job-{verb}", NO) for verb in ("cancel", "complete", "dismiss", "finalize", "pause", "resume")),
    ("block-export-add", {"id": "e", "type": "nbd", "node-name": "null"}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "ROOT/nbd.sock"}}}),
    ("block-export-add", {"id": "e", "type": "nbd", "node-name": "null"}),
    ("block-export-del", {"id": "e"}),
    ("nbd-server-add", {"device": "null"}),
    ("nbd-server-remove", {"name": "null"}),
    ("nbd-server-stop", {}),
    ("block-export-del", {"id": "no-such"}),
    ("blockdev-del", {"node-name": "null"}),
    # Devices and objects
    ("device_add", {"driver": "virtio-rng-pci", "id": "rng"}),
    ("device_add", {"driver": "virtio-rng-pci", "id": "rng"}),
    ("device_add", {"driver": "no-such"}),
    ("device-sync-config", NO),
    ("device_del", NO),
    ("netdev_add", {"type": "hubport", "id": "net", "hubid": 0}),
    ("set_link", {"name": "net", "up": False}),
    ("request-ebpf", {"id": "rss"}),
    ("netdev_del", {"id": "net"}),
    ("netdev_del", {"id": "net"}),
    ("object-add", {"qom-type": "iothread", "id": "thread"}),
    ("qom-set", {"path": "/objects/thread", "property": "poll-max-ns", "value": 4096}),
    ("qom-get", {"path": "/objects/thread", "property": "poll-max-ns"}),
    ("qom-list", {"path": "/objects/thread"}),
    ("object-del", {"id": "thread"}),
    ("object-del", {"id": "thread"}),
    # Not a good one: it loads all modules, and QEMU 10, unpacked beside an installed 7.2, finds that one's and aborts.
    ("qom-list-types", {"abstract": 1}),
    ("qom-list-properties", {"typename": "iothread"}),
    ("device-list-properties", {"typename": "virtio-rng-pci"}),
    # Character devices, descriptors, displays, input
    ("chardev-add", {"id": "ring", "backend": RING}),
    ("chardev-change", {"id": "ring", "backend": RING}),
    ("chardev-send-break", {"id": "ring"}),
    ("ringbuf-write", {"device": "ring", "data": "ü"}),
    ("ringbuf-read", {"device": "ring", "size": 9}),
    ("chardev-remove", {"id": "ring"}),
    ("getfd", {"fdname": "x"}),
    ("closefd", {"fdname": "x"}),
    ("add-fd", {}),
    ("remove-fd", {"fdset-id": 1}),
    ("add_client", {"protocol": "no-such", "fdname": "x"}),
    ("get-win32-socket", {"info": "x", "fdname": "x"}),
    ("change-vnc-password", {"password": "x"}),
    ("set_password", {"protocol": "vnc", "password": "x"}),
    ("expire_password", {"protocol": "vnc", "time": "never"}),
    ("client_migrate_info", {"protocol": "spice", "hostname": "x", "port": 1}),
    ("display-reload", {"type": "vnc"}),
    ("display-update", {"type": "vnc"}),
    ("screendump", {"filename": "ROOT/screen"}),
    ("send-key", {"keys": [{"type": "qcode", "data": "a"}]}),
    ("input-send-event", {"events": []}),
    # Memory, migration
    ("balloon", {"value": 64 << 20}),
    ("memsave", {"val": 0, "size": 16, "filename": "ROOT/memory"}),
    ("pmemsave", {"val": 0, "size": 16, "filename": "ROOT/memory"}),
    ("dump-guest-memory", {"paging": False, "protocol": "file:ROOT/dump", "begin": 0, "length": 4096}),
    ("dump-skeys", {"filename": "ROOT/keys"}),
    ("dumpdtb", {"filename": "ROOT/tree"}),
    ("migrate", {"uri": "no-such"}),
    ("migrate_cancel", {}),
    ("migrate-continue", {"state": "pre-switchover"}),
    ("migrate-incoming", {"uri": "no-such"}),
    ("migrate-pause", {}),
    ("migrate-recover", {"uri": "no-such"}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": False}]}),
    ("migrate-set-parameters", {"max-bandwidth": 1 << 25}),
    ("migrate-start-postcopy", {}),
    ("calc-dirty-rate", {"calc-time": 0}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 1}),
    ("cancel-vcpu-dirty-limit", {}),
    ("x-colo-lost-heartbeat", {}),
    # The machine
    ("stop", {}),
    ("cont", {}),
    ("stop", {}),
    ("system_reset", {}),
    ("system_powerdown", {}),
    ("system_wakeup", {}),
    ("inject-nmi", {}),
    ("announce-self", {"initial": 50, "max": 50, "rounds": 1, "step": 10}),
    ("rtc-reset-reinjection", {}),
    ("set-action", {"reboot": "reset"}),
    ("watchdog-set-action", {"action": "reset"}),
    ("set-numa-node", {"type": "node"}),
    ("x-exit-preconfig", {}),
    ("human-monitor-command", {"command-line": "print 6*7"}),
    ("trace-event-get-state", {"name": "bdrv_open_common"}),
    ("trace-event-set-state", {"name": "no-such-event", "enable": True}),
    ("replay-break", {"icount": 1}),
    ("replay-delete-break", {}),
    ("replay-seek", {"icount": 1}),
    ("sev-inject-launch-secret", {"packet-header": "", "secret": ""}),
    ("xen-colo-do-checkpoint", {}),
    ("xen-save-devices-state", {"filename": "/no/such/folder"}),
    ("xen-set-global-dirty-log", {"enable": False}),
    ("xen-set-replication", {"enable": True, "primary": True}),
    ("xen-event-inject", {"port": 1}),
    ("xen-event-list", {}),
    ("cxl-inject-poison", {"path": "/machine", "start": 0, "length": 64}),
    *((f"cxl-inject-{what}", {"path": "/machine"}) for what in ("correctable-error", "uncorrectable-errors")),
    *((f"cxl-inject-{what}-event", {"path": "/machine"}) for what in ("dram", "general-media", "memory-module")),
    *((f"cxl-{what}-dynamic-capacity", {"path": "/machine"}) for what in ("add", "release")),
    ("yank", {"instances": []}),
    ("qmp_capabilities", {}),
)

ELSEWHERE = {
    "quit": "it ends QEMU",
    "xen-load-devices-state": "QEMU aborts",
    "snapshot-save": "refused",
    "snapshot-load": "ours",
    "snapshot-delete": "ours",
    "blockdev-snapshot-internal-sync": "refused",
    "blockdev-snapshot-delete-internal-sync": "refused",
}


def play(client: QMPClient, vm: TestVM) -> list[tuple[str, Any]]:
    """Execute the script; return the answers without the VM's folder."""
    answers = []
    for command, arguments in SCRIPT:
        written = json.dumps(arguments).replace("ROOT", str(vm.root))
        told = json.dumps(answer(client, command, json.loads(written))).replace(str(vm.root), "ROOT")
        answers.append((command, json.loads(told)))
    return answers


def test_every_command_that_does_no_harm_is_answered_as_without_us(vm_factory: VMFactory) -> None:
    alone, ours = vm_factory("alone"), vm_factory("ours")
    with plain_qemu(alone, by_node(alone)) as plain, served(ours, argv=by_node(ours), paused=False):
        names = {entry["name"] for entry in plain.qmp.execute("query-commands")}
        changing = {name for name in names if not name.startswith(("query-", "x-query-", "x-debug-query-"))}
        assert changing - {command for command, _ in SCRIPT} - ELSEWHERE.keys() == set()
        without = play(plain.qmp, alone)
        assert sum(kind == "return" for _, (kind, _) in without) > 50
        with ours.qmp() as client:
            assert play(client, ours) == without
