"""Builds the Linux guest into ``.cache/guest``: Debian's cloud kernel, and an initramfs with busybox and ``init.sh``.

Not for: the firmware guest, which is made for each VM (``firmware.py``).  Needs Debian's packages
``linux-image-cloud-amd64`` and ``busybox-static`` and nothing of the project; run it again whenever you like, it does
nothing unless its sources changed.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent.parent / ".cache" / "guest"
KERNEL = PLACE / "kernel"
INITRAMFS = PLACE / "initramfs"
STAMP = PLACE / "stamp"

BUSYBOX = Path("/bin/busybox")
APPLETS = ("cat", "cmp", "dd", "head", "insmod", "mkfifo", "mount", "sh", "sleep", "sync", "yes")
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_balloon",
)
"""In the order in which they must be loaded: each needs symbols of those before it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an initramfs; ``mode`` as in stat(2), ``device`` (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def main() -> int:
    """Build what is missing or outdated; return the exit code."""
    try:
        kernel = newest_kernel()
        stamp = fingerprint(kernel)
        if not (STAMP.is_file() and STAMP.read_text() == stamp and KERNEL.exists() and INITRAMFS.exists()):
            build(kernel, stamp)
    except FileNotFoundError as error:
        print(
            f"The test guest cannot be built: {error}. "
            "Install Debian's linux-image-cloud-amd64 and busybox-static, or run make setup.",
            file=sys.stderr,
        )
        return 1
    return 0


def newest_kernel() -> Path:
    """Return the newest cloud kernel whose modules are there too.

    :raises FileNotFoundError: where there is none.
    """
    kernels = [path for path in Path("/boot").glob("vmlinuz-*-cloud-amd64") if _modules_folder(path).is_dir()]
    if not kernels:
        raise FileNotFoundError("there is no /boot/vmlinuz-*-cloud-amd64 with its modules")
    return max(kernels, key=lambda path: path.stat().st_mtime_ns)


def fingerprint(kernel: Path) -> str:
    """Return what changes whenever the guest must be built again."""
    digest = hashlib.sha256()
    for source in (Path(__file__), HERE / "init.sh"):
        digest.update(source.read_bytes())
    for file in (kernel, BUSYBOX):
        found = file.stat()
        digest.update(f"{file} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def build(kernel: Path, stamp: str) -> None:
    """Write kernel, initramfs and, last, the stamp; each appears whole or not at all."""
    PLACE.mkdir(parents=True, exist_ok=True)
    STAMP.unlink(missing_ok=True)
    _replace(INITRAMFS, cpio(contents(_modules_folder(kernel))))
    link = PLACE / f"kernel.{os.getpid()}"
    link.symlink_to(kernel)
    link.replace(KERNEL)
    _replace(STAMP, stamp.encode())


def contents(modules: Path) -> Iterator[Entry]:
    """Yield the files of the initramfs.

    :param modules: ``/lib/modules/VERSION``.
    :raises FileNotFoundError: where a module is missing.
    """
    for folder in ("bin", "dev", "modules", "proc", "ram", "sys"):
        yield Entry(folder, stat.S_IFDIR | 0o755)
    # The kernel opens it for process 1 before there is a devtmpfs.
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield Entry("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes())
    for applet in APPLETS:
        yield Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    for order, name in enumerate(MODULES):
        yield Entry(f"modules/{order}-{name}.ko", stat.S_IFREG | 0o644, _module(modules, name))
    yield Entry("init", stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive in cpio's "newc" format, all of root's and without times, so that it is reproducible.

    It stays uncompressed: QEMU hands 2 MiB over at once, and unpacking them under TCG would take longer.
    """
    archive = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.name.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4)
        archive += entry.data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _modules_folder(kernel: Path) -> Path:
    return Path("/lib/modules") / kernel.name.removeprefix("vmlinuz-")


def _module(modules: Path, name: str) -> bytes:
    for found in sorted(modules.glob(f"kernel/drivers/**/{name}.ko*")):
        data = found.read_bytes()
        return lzma.decompress(data) if found.suffix == ".xz" else data
    raise FileNotFoundError(f"the module {name} is not in {modules}")


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
