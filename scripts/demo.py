"""Show a Linux guest with two disks going back in time, by the commands that a user types.  Not for: checking anything.

Everything lives in a temporary folder, and nothing is left running.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.guest import build  # noqa: E402  the guest is shared with the tests

SNAPTREE = [sys.executable, "-m", "snaptree"]
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
TIMEOUT_S = 60
DEMO_ERROR = 1


class DemoError(Exception):
    """The demo cannot go on."""


class Demo:
    """One run of the demo in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.serial = folder / "serial.log"
        self.env = {**os.environ, "SNAPTREE_HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder)}

    def say(self, text: str) -> None:
        """Tell the reader what comes."""
        print(f"\n{BOLD}{text}{PLAIN}", flush=True)

    def type(self, *words: str, shown: str | None = None) -> None:
        """Run a command of snaptree as a user types it, and show what it prints."""
        print(f"{DIM}$ snaptree {shown or shlex.join(words)}{PLAIN}", flush=True)
        done = subprocess.run([*SNAPTREE, *words], env=self.env, cwd=self.folder, check=False)
        if done.returncode:
            raise DemoError(f"`snaptree {words[0]}` ended with {done.returncode}")

    def counters(self, since: int = 0) -> list[str]:
        """Return the guest's own lines."""
        text = self.serial.read_text(errors="replace")[since:] if self.serial.exists() else ""
        if "MISMATCH" in text or "GUEST-FAILED" in text:
            raise DemoError(f"the guest complains:\n{text[-500:]}")
        return re.findall(r"STATE OK ram=\d+ a=\d+ b=\d+(?=\r?\n)", text)

    def watch(self, more: int = 1) -> None:
        """Wait until the guest has counted on, and show its newest line."""
        since = self.serial.stat().st_size if self.serial.exists() else 0
        end = time.monotonic() + TIMEOUT_S
        while len(found := self.counters(since)) < more:
            if time.monotonic() > end:
                raise DemoError("the guest says nothing")
            time.sleep(0.05)
        print(f"  the guest: {found[-1]}", flush=True)

    def play(self) -> None:
        """The story."""
        self.say("A Linux guest that counts in RAM and on two disks, and checks before each step that they agree:")
        for name in ("a", "b"):
            image = str(self.folder / f"{name}.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
        qemu = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-display", "none", "-nodefaults"]
        qemu += ["-drive", "file=a.qcow2,if=virtio", "-drive", "file=b.qcow2,if=virtio"]
        qemu += ["-serial", "file:serial.log", "-kernel", str(build.KERNEL), "-initrd", str(build.INITRAMFS)]
        qemu += ["-append", "console=ttyS0 quiet"]
        shown = "run dev --detach -- qemu-system-x86_64 -drive file=a.qcow2,if=virtio -drive file=b.qcow2,if=virtio …"
        self.type("run", "dev", "--detach", "--", *qemu, shown=shown)
        self.watch(3)
        self.say("A snapshot of all of it, RAM and both disks; then the guest goes on:")
        self.type("create", "dev", "first", "-m", "just booted")
        self.watch(15)
        self.type("create", "dev", "second")
        self.watch(15)
        self.say("Back to the first: the counters in RAM and on both disks are what they were, together:")
        self.type("load", "dev", "first")
        self.watch()
        self.watch(5)
        self.say("From here another branch:")
        self.type("create", "dev", "other-way")
        self.watch(5)
        self.type("tree", "dev")
        self.say("And over to the second, on the other branch:")
        self.type("load", "dev", "second")
        self.watch()
        self.say("What happened, and how long the guest stood still:")
        self.type("log", "dev")
        self.say("What can't be right is refused, and nothing is touched:")
        for words in (("create", "dev", "first"), ("load", "dev", "1")):
            print(f"{DIM}$ snaptree {shlex.join(words)}{PLAIN}", flush=True)
            subprocess.run([*SNAPTREE, *words], env=self.env, stderr=subprocess.STDOUT, check=False)
        self.watch()

    def stop(self) -> None:
        """Leave nothing running."""
        done = subprocess.run(
            [*SNAPTREE, "stop", "dev"], env=self.env, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        print(f"\n{DIM}(stopped; nothing is left running){PLAIN}" if done.returncode == 0 else "", flush=True)


def main() -> int:
    """Play the demo; return the exit code."""
    if not build.STAMP.is_file():
        print("The guest is not built. Run: make demo", file=sys.stderr)
        return DEMO_ERROR
    folder = Path(tempfile.mkdtemp(prefix="snaptree-demo-"))
    demo = Demo(folder)
    try:
        demo.play()
    except (DemoError, KeyboardInterrupt) as error:
        print(f"The demo broke off: {error}", file=sys.stderr)
        return DEMO_ERROR
    finally:
        demo.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
