"""A read-only view of one snapshot in an image, served by qemu-nbd while the image's own QEMU runs on.

Not for: the overlays that stand on it, nor who needs a view how long.

A view reads the snapshot's own tables, once, when it starts; QEMU never moves or overwrites what a snapshot uses as
long as the snapshot is there.  So the guest may write, and other snapshots come, go and be loaded.  But while one
starts, no snapshot of the image may come or go, because the table of snapshots is written elsewhere then.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..model.errors import ImageError
from ..model.names import printable
from ..places.files import private_directory
from ..places.places import check_socket_path
from ..places.process import ProcessIdentity, identify
from ..qcow2.errors import UnsupportedImage
from ..qcow2.header import CRYPT_NONE
from ..qcow2.image import Image

RECONNECT_S: Final = 5
"""How long a guest's request waits for a view that has died before it fails.  A supervisor starts it again in tens of
milliseconds, and QEMU tries again after 0, 1 and 3 seconds.  Not more: QEMU's `stop` waits as long as a request."""

OPEN_S: Final = 5
"""How long QEMU's start waits for a view."""


@dataclass(frozen=True, slots=True)
class View:
    """A view that is served.

    :param process: qemu-nbd; nobody's child, and it ends with no supervisor.
    :param socket: where it serves, for any number of clients.
    :param image: whose snapshot it is.
    :param size_bytes: of the disk in the snapshot.  The view itself can be longer.
    """

    process: ProcessIdentity
    socket: Path
    image: Path
    tag: str
    size_bytes: int

    def serves(self) -> bool:
        """Say whether it runs."""
        return self.process.alive()

    def backing(self) -> str:
        """Return the name under which an overlay has it as its backing image, of the format ``raw``."""
        nbd = {
            "driver": "nbd",
            "server": {"type": "unix", "path": str(self.socket)},
            "reconnect-delay": RECONNECT_S,
            "open-timeout": OPEN_S,
        }
        return "json:" + json.dumps({"driver": "raw", "file": nbd}, separators=(",", ":"))

    def to_json(self) -> dict[str, object]:
        """Return what ``from_json`` makes it of again, for a file."""
        process = {"pid": self.process.pid, "start": self.process.start, "boot": self.process.boot}
        return {
            "process": process,
            "socket": str(self.socket),
            "image": str(self.image),
            "tag": self.tag,
            "size_bytes": self.size_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> View:
        """Return the view that was written down, whether it still runs or not.

        :raises KeyError, TypeError, ValueError: where ``value`` is none.
        """
        process = value["process"]
        identity = ProcessIdentity(int(process["pid"]), int(process["start"]), str(process["boot"]))
        return cls(identity, Path(value["socket"]), Path(value["image"]), str(value["tag"]), int(value["size_bytes"]))


def start_view(image: Path, tag: str, socket: Path) -> View:
    """Serve a snapshot read-only at a socket, also while a QEMU has the image open.

    Prerequisites: nobody serves at ``socket``; no snapshot of the image is taken, loaded or deleted meanwhile; the
    snapshot is not deleted as long as the view is needed.
    Effects on success: a qemu-nbd runs that outlives us; it locks nothing and writes nothing.
    Effects on failure: none runs.

    :param socket: its directory becomes private to the user.
    :raises ImageError: where the image has no such snapshot, or cannot show it.
    :raises SnaptreeError: where the socket's path is too long, or the directory cannot be made.
    """
    size = _size_in(image, tag)
    check_socket_path(socket)
    private_directory(socket.parent)
    pid_file = socket.with_name(f"{socket.name}.pid")
    opened = image.stat()
    driver = "host_device" if stat.S_ISBLK(opened.st_mode) else "file"
    options = {"driver": "qcow2", "file.driver": driver, "file.filename": str(image.absolute()), "file.locking": "off"}
    words = ["qemu-nbd", "--fork", f"--pid-file={pid_file}", "--read-only", "--persistent", "--shared=0"]
    words += [f"--socket={socket}", f"--load-snapshot=snapshot.name={_value(tag)}", "--image-opts"]
    words.append(",".join(f"{key}={_value(text)}" for key, text in options.items()))
    try:
        # With --fork it returns once it serves, or has failed, and says why; a QEMU of the user's may have no umask.
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, check=False, umask=0o077)
        if done.returncode == 0:
            identity = identify(int(pid_file.read_text()))
            if identity is not None:
                return View(identity, socket, image, tag, size)
    except (OSError, ValueError) as error:
        raise ImageError(f"qemu-nbd cannot be run: {error}.", "Install qemu-utils.") from error
    finally:
        with contextlib.suppress(OSError):
            pid_file.unlink()
    said = done.stderr.decode("utf-8", "replace").strip().removeprefix("qemu-nbd: ")
    raise ImageError(
        f"The snapshot {printable(tag, 255)} in {printable(str(image), 400)} cannot be served: {printable(said, 300)}.",
        "`snaptree check` says whether the image is whole.",
    )


def end_view(view: View) -> None:
    """End a view, whoever started it, and wait until it is gone; where it is gone already that is nothing.

    Whoever reads through it gets errors from now on.
    """
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(view.process.pid)
        try:
            if view.process.alive():  # asked after the descriptor is open: so it is this process and no later one
                # It has nothing to write; and SIGTERM is sometimes without effect just after it has started.
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [])
        finally:
            os.close(pidfd)
    with contextlib.suppress(OSError):
        view.socket.unlink()


def _size_in(path: Path, tag: str) -> int:
    """Return the disk's size in a snapshot.

    :raises ImageError: where there is no such snapshot, or qemu-nbd would not show all of it.
    """
    with Image.open(path) as image:
        found = [snapshot for snapshot in image.snapshots() if snapshot.tag == tag]
        header = image.header
    named = printable(str(path), 400)
    if len(found) != 1:
        raise ImageError(f"{named} has {len(found)} snapshots of the tag {printable(tag, 255)}; it must be one.")
    if header.crypt_method != CRYPT_NONE:
        raise UnsupportedImage(f"{named} is encrypted, and a view of it would need its key.")
    size = header.disk_size if found[0].disk_size is None else found[0].disk_size
    if size > header.disk_size:
        # qemu-nbd takes the size of the image, not of the snapshot, and would show zeros behind that.
        raise ImageError(
            f"The disk {named} has {header.disk_size} bytes now, and had {size} in the snapshot {printable(tag, 255)}.",
            "Load that snapshot first, or another one of that size.",
        )
    return size


def _value(text: str) -> str:
    """Return a text as the value of an option of QEMU, where a doubled comma is a comma."""
    return text.replace(",", ",,")
