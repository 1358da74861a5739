"""libvirt's snapshots of an ordinary VM, where virsh is installed.  Not for: snaptree's own."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

from tests.guest import build

from .rig import TIMEOUT_S

NOBODY = "nobody"
DOMAIN = "snaptree-bench"


def measure(memory_mib: int, fill_mib: int, rounds: int) -> dict[str, float]:
    """Return medians of ``snapshot-create-as`` and ``snapshot-revert`` in milliseconds; nothing where virsh is missing.

    libvirt's session daemon is started for it and ends by itself.  Root has none, so for root it is nobody's.
    """
    if shutil.which("virsh") is None or shutil.which("libvirtd") is None:
        return {}
    folder = Path(tempfile.mkdtemp(prefix="snaptree-bench-", dir=os.environ.get("SNAPTREE_BENCH_DIR")))
    try:
        return _Domain(folder, memory_mib, fill_mib).measure(rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Domain:
    def __init__(self, folder: Path, memory_mib: int, fill_mib: int) -> None:
        self._folder = folder
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        for file in (build.KERNEL, build.INITRAMFS):
            shutil.copy(file, folder)
        for name in ("a", "b"):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / f"{name}.qcow2"), "1G"], check=True)
        (folder / "domain.xml").write_text(_xml(folder, memory_mib, fill_mib))
        places = {name: str(folder / name.lower()) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
        self._env = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(runtime), **places}
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            self._as_user = ["setpriv", f"--reuid={NOBODY}", "--regid=nogroup", "--clear-groups"]
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, NOBODY)

    def measure(self, rounds: int) -> dict[str, float]:
        creates, reverts = [], []
        self._virsh("create", str(self._folder / "domain.xml"))
        try:
            self._wait()
            for number in range(rounds):
                creates.append(self._virsh("snapshot-create-as", DOMAIN, f"s-{number}"))
                reverts.append(self._virsh("snapshot-revert", DOMAIN, f"s-{number}"))
        finally:
            self._virsh("destroy", DOMAIN)
        return {"create_ms": statistics.median(creates), "load_ms": statistics.median(reverts)}

    def _virsh(self, *words: str) -> float:
        start = time.perf_counter()
        command = [*self._as_user, "virsh", "-q", "-c", "qemu:///session", *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"virsh {words[0]}: {done.stderr}")
        return (time.perf_counter() - start) * 1000

    def _wait(self) -> None:
        end = time.monotonic() + TIMEOUT_S
        while "STATE OK ram=5 " not in (self._folder / "serial.log").read_text(errors="replace"):
            if time.monotonic() > end:
                raise RuntimeError("the guest under libvirt does not come up")
            time.sleep(0.1)


def _xml(folder: Path, memory_mib: int, fill_mib: int) -> str:
    at = escape(str(folder))
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>"
        f"<source file='{at}/{name}.qcow2'/><target dev='{target}' bus='virtio'/></disk>"
        for name, target in (("a", "vda"), ("b", "vdb"))
    )
    return f"""<domain type='qemu'><name>{DOMAIN}</name><memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type>
<kernel>{at}/{build.KERNEL.name}</kernel><initrd>{at}/{build.INITRAMFS.name}</initrd>
<cmdline>console=ttyS0 quiet snaptree.fill={fill_mib}</cmdline></os>
<features><acpi/></features><cpu mode='maximum'/>
<devices><emulator>{escape(shutil.which("qemu-system-x86_64") or "")}</emulator>{disks}
<serial type='file'><source path='{at}/serial.log'/></serial><memballoon model='none'/></devices></domain>"""
