"""What a fork was made from, as its ``command.json`` says it.  Not for: making a fork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..model.errors import SnaptreeError
from ..places.files import read_json
from ..places.places import VMPlace
from .forkdisks import make_view

MEMBER = "origin"
"""Its name in ``command.json``."""


@dataclass(frozen=True, slots=True)
class View:
    """A file through which a fork sees a snapshot of one of its source's images.

    :param image: the source's image, and ``tag`` the snapshot in it.
    """

    path: str
    image: str
    tag: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The snapshot that a fork began with.

    :param vm: the source; ``id`` and ``name`` are the snapshot's, the name as it was then.
    """

    vm: str
    id: str
    name: str
    views: tuple[View, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for ``command.json``."""
        return asdict(self)


def read(place: VMPlace) -> Origin | None:
    """Return what a VM was forked from; ``None`` where it was not, or that can't be read."""
    try:
        value = (read_json(place.command) or {}).get(MEMBER)
    except SnaptreeError:
        return None
    if not isinstance(value, dict):
        return None
    views = value.get("views")
    found = [_view(item) for item in views if isinstance(item, dict)] if isinstance(views, list) else []
    return Origin(str(value.get("vm", "")), str(value.get("id", "")), str(value.get("name", "")), tuple(found))


def remake_views(origin: Origin) -> None:
    """Make the files anew through which a fork sees its source's images: they were not made durable.

    Prerequisites: the fork does not run.

    :raises ImageError: where the source's image, or the snapshot in it, is missing.
    """
    for view in origin.views:
        make_view(Path(view.image), view.tag, Path(view.path))


def _view(item: Mapping[str, object]) -> View:
    return View(str(item.get("path", "")), str(item.get("image", "")), str(item.get("tag", "")))
