"""The migration capabilities that harm a snapshot.  Not for: those that we set ourselves around a job of ours.

snapshot-save and snapshot-load write and read a migration stream, so what was set for a migration changes them too.
Every capability of QEMU 7.2 was tried: on for the save, for the load, and for both.
"""

from __future__ import annotations

from collections.abc import Mapping

_ALWAYS = {
    "mapped-ram": "QEMU cannot use a disk image with it",
    "multifd": "QEMU crashes with it",
    "x-ignore-shared": "with it the VM state holds no shared RAM",
}

BREAKS_SAVE: Mapping[str, str] = _ALWAYS | {
    "block": "QEMU refuses to save with it",
    "compress": "what is saved with it can only be loaded with it, and not by newer QEMUs",
    "postcopy-ram": "what is saved with it cannot be loaded where RAM is in huge pages",
}
"""Why, by name."""

BREAKS_LOAD: Mapping[str, str] = _ALWAYS
"""Why, by name; of a snapshot that was taken without any of them."""
