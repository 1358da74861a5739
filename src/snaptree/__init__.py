"""Snapshots of running QEMU virtual machines, as a tree.  Not for: what is not in ``__all__``; it may change.

Names are loaded when they are first used, so that ``import snaptree`` costs next to nothing.
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    from .model.errors import (
        AmbiguousId,
        BadName,
        Busy,
        CatalogError,
        DamageFound,
        ImageError,
        Interrupted,
        LoadIncomplete,
        NameTaken,
        NoSuchSnapshot,
        NoSuchVM,
        NotFound,
        NotReady,
        OtherDisks,
        PagesDamaged,
        PageStoreError,
        ProtocolError,
        QEMUFailed,
        QEMUGone,
        QEMUStartFailed,
        Refused,
        SnaptreeError,
        UsageError,
        VMNotRunning,
        VMRuns,
    )
    from .model.reason import Reason, ReasonJSON
    from .model.snapshot import Device, DeviceJSON, Machine, Snapshot, SnapshotJSON

    __version__: str

__all__ = [
    "AmbiguousId",
    "BadName",
    "Busy",
    "CatalogError",
    "DamageFound",
    "Device",
    "DeviceJSON",
    "ImageError",
    "Interrupted",
    "LoadIncomplete",
    "Machine",
    "NameTaken",
    "NoSuchSnapshot",
    "NoSuchVM",
    "NotFound",
    "NotReady",
    "OtherDisks",
    "PageStoreError",
    "PagesDamaged",
    "ProtocolError",
    "QEMUFailed",
    "QEMUGone",
    "QEMUStartFailed",
    "Reason",
    "ReasonJSON",
    "Refused",
    "Snapshot",
    "SnapshotJSON",
    "SnaptreeError",
    "UsageError",
    "VMNotRunning",
    "VMRuns",
    "__version__",
]

_HOMES = ("errors", "reason", "snapshot")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    value: object = None
    if name == "__version__":
        import importlib.metadata  # noqa: PLC0415  20 ms that only --version needs

        try:
            value = importlib.metadata.version("snaptree")
        except importlib.metadata.PackageNotFoundError:
            value = "unknown"  # a source tree that is not installed
    else:
        for home in _HOMES:
            value = getattr(importlib.import_module(f".model.{home}", __name__), name, None)
            if value is not None:
                break
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
