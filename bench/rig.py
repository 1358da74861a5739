"""A VM under snaptree in a temporary folder, for measuring.  Not for: tests, which have a framework of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.guest import build

SNAPTREE = [sys.executable, "-m", "snaptree"]
TIMEOUT_S = 600
"""The guest fills GiBs of RAM before it says that it is up, and all of that under TCG."""


class Client:
    """A QMP client that counts time from sending to answer.

    :ivar stops: how often the VM stood still so far.
    :ivar at: when QEMU said an event last, in seconds of the host's real time; of a job by its state, ``created job``.
    """

    def __init__(self, path: str) -> None:
        self.stops = 0
        self.at: dict[str, float] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a command and return its value; arguments' underscores become hyphens."""
        message = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        self._socket.sendall(json.dumps(message).encode())
        while line := self._file.readline():
            reply = json.loads(line)
            if "event" in reply:
                self.stops += reply["event"] == "STOP"
                name = reply["event"]
                if name == "JOB_STATUS_CHANGE":
                    name = f"{reply['data']['status']} job"
                self.at[name] = reply["timestamp"]["seconds"] + reply["timestamp"]["microseconds"] / 1e6
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise RuntimeError(f"{command}: the connection ended")

    def timed(self, command: str, **arguments: Any) -> float:
        """Execute a command and return the milliseconds that it took."""
        start = time.perf_counter()
        self.execute(command, **arguments)
        return (time.perf_counter() - start) * 1000

    def job(self, command: str, **arguments: Any) -> float:
        """Run one of QEMU's own jobs to its end and return the milliseconds that it took."""
        id = f"bench-{time.monotonic_ns()}"
        start = time.perf_counter()
        self.execute(command, job_id=id, **arguments)
        while True:
            job = next(job for job in self.execute("query-jobs") if job["id"] == id)
            if job["status"] == "concluded":
                break
        took = (time.perf_counter() - start) * 1000
        self.execute("job-dismiss", id=id)
        if "error" in job:
            raise RuntimeError(f"{command}: {job['error']}")
        return took

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()


class Rig:
    """The temporary folder and the VM in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SNAPTREE_HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder)}

    def snaptree(self, *words: str) -> str:
        """Run a command of snaptree and return what it prints."""
        done = subprocess.run(
            [*SNAPTREE, *words], env=self.env, cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"snaptree {words[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def timed(self, *words: str) -> float:
        """Run a whole command and return the milliseconds that it took."""
        start = time.perf_counter()
        self.snaptree(*words)
        return (time.perf_counter() - start) * 1000

    def client(self, vm: str = "vm") -> Client:
        """Connect to the supervisor."""
        return Client(self.snaptree("qmp", vm).strip().removeprefix("unix:"))

    def wait_serial(self, text: str, since: int = 0) -> None:
        """Wait until the guest has said ``text``."""
        end = time.monotonic() + TIMEOUT_S
        while text not in self._said()[since:]:
            if time.monotonic() > end:
                raise RuntimeError(f"the guest does not say {text}")
            time.sleep(0.05)

    def wait_round(self) -> None:
        """Wait until the guest has ended its next round."""
        self.wait_serial("STATE OK ", len(self._said()))

    def _said(self) -> str:
        path = self.folder / "home" / "vms" / "vm" / "files" / "serial.log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def rig(
    *arguments: str, linux: bool, memory_mib: int = 128, append: str = "", options: Sequence[str] = ()
) -> Iterator[Rig]:
    """Run a VM with two disks under snaptree; it is ended afterwards.

    :param arguments: more arguments for QEMU.
    :param linux: boot the test guest; else the VM only runs its firmware.
    :param append: more words for the guest's kernel.
    :param options: of ``snaptree run``.
    """
    folder = Path(tempfile.mkdtemp(prefix="snaptree-bench-", dir=os.environ.get("SNAPTREE_BENCH_DIR")))
    made = Rig(folder)
    qemu = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        str(memory_mib),
        "-display",
        "none",
        "-nodefaults",
    ]
    for name in ("a", "b"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / f"{name}.qcow2"), "1G"], check=True)
        qemu += [
            "-blockdev",
            f"driver=qcow2,node-name={name},file.driver=file,file.filename={name}.qcow2,discard=unmap",
        ]
        qemu += ["-device", f"virtio-blk-pci,drive={name}"]
    qemu += ["-serial", "file:{dir}/serial.log"]
    if linux:
        qemu += [
            "-kernel",
            str(build.KERNEL),
            "-initrd",
            str(build.INITRAMFS),
            "-append",
            f"console=ttyS0 quiet {append}",
        ]
    try:
        made.snaptree("run", "vm", "--detach", "--allow-raw", *options, "--", *qemu, *arguments)
        if linux:
            made.wait_serial("STATE OK ram=5 ")
        yield made
    finally:
        subprocess.run([*SNAPTREE, "stop", "vm"], env=made.env, check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
