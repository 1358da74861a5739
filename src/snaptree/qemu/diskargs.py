"""Other images in the disk arguments of a QEMU command line, all else to the letter.  Not for: making images.

What is replaced is the file, wherever it stands: ``-drive``, ``-blockdev`` (nodes of their own for the file too, and
JSON), ``-hda`` and its like, a bare word.  The new image is qcow2 and brings its backing image along.  A guest's disk
that can gets the policies ``rerror=stop,werror=stop``: what fails below pauses the VM and is not told to the guest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..model.names import printable
from ..model.reason import Reason
from .commandline import Option, options
from .placeholders import Values, escaped, fill

_SHORT: Final = {
    "hda": "index=0,media=disk",
    "hdb": "index=1,media=disk",
    "hdc": "index=2,media=disk",
    "hdd": "index=3,media=disk",
}
"""What QEMU makes of an option that names a disk (``qemu_init()``)."""
_OTHER_SHORT: Final = frozenset({"cdrom", "fda", "fdb", "mtdblock", "pflash", "sd"})
"""Those whose devices have no policies."""
_BUSES_WITH_POLICIES: Final = ("", "ide", "scsi", "virtio")
_DEVICES_WITH_POLICIES: Final = ("ide-hd", "scsi-hd", "usb-storage", "virtio-blk")
_POLICIES: Final = ("rerror", "werror")

Same = Callable[[str], str | None]
"""Returns the new image for an image as it is written in the command line; ``None`` where it stays."""


@dataclass(frozen=True, slots=True)
class DiskArgument:
    """A place in a command line that names an image.

    :param at: which word it is, or is in.
    :param option: the option's name without dashes; empty for a bare word.
    :param image: as written there, commas single.
    """

    at: int
    option: str
    image: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A command line with other images.

    :param argv: with placeholders where there were some.
    :param reasons: why some images could not be replaced; then ``argv`` is not to be used.
    """

    argv: tuple[str, ...]
    reasons: tuple[Reason, ...] = ()


def disks(argv: Sequence[str]) -> tuple[DiskArgument, ...]:
    """Return every place that names an image or another file for a block device, read-only ones too."""
    found: list[DiskArgument] = []
    for at, name, value in _arguments(argv):

        def note(image: str, at: int = at, name: str = name) -> None:
            found.append(DiskArgument(at, name, image))

        _change(name, value, note)
    return tuple(found)


def with_disks(
    argv: Sequence[str], images: Mapping[str, str], cwd: str = "/", values: Values | None = None
) -> Replaced:
    """Return the command line with other images in place of some.

    :param images: the absolute path of each image that is there now, and of the qcow2 image that takes its place.
    :param cwd: QEMU's working directory, for what is relative.
    :param values: what stands for the placeholders now; what stands for none is none.
    """
    wanted = {_normal(old, cwd): new for old, new in images.items()}
    replaced: set[str] = set()

    def same(image: str) -> str | None:
        path = fill([image], values)[0] if values else image
        path = _normal(path.removeprefix("file:"), cwd)
        if path not in wanted:
            return None
        replaced.add(path)
        return escaped([wanted[path]])[0] if values is not None else wanted[path]

    words: dict[int, list[str]] = {}
    reasons: list[Reason] = []
    touched: set[str] = set()
    for at, name, value in _arguments(argv):
        changed = _change(name, value, same)
        if changed is None:
            continue
        words[at] = changed
        touched |= _names(name, value)
        if name in _SHORT:
            words[at - 1] = ["-drive"]
        if name in ("drive", "blockdev") and _has_backing(name, value):
            reasons.append(_with_backing(name, value))
    for value in _above(argv, touched):
        if _has_backing("blockdev", value):
            reasons.append(_with_backing("blockdev", value))
    words.update(_with_policies(argv, touched))
    for path in wanted.keys() - replaced:
        reasons.append(
            Reason(
                "disk-not-found",
                f"The image {printable(path, 400)} is named in no disk argument of the command line.",
                "Name it by -drive, -blockdev or -hda, and not in a file that -readconfig reads.",
            )
        )
    complete: list[str] = []
    for at, word in enumerate(argv):
        complete.extend(words.get(at, [word]))
    return Replaced(tuple(complete), tuple(reasons))


def _arguments(argv: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the place, the option's name, and the text of each disk argument; of a bare word its own place."""
    covered = 0
    for option in (*options(argv), Option("", None, "", len(argv))):
        for at in range(max(covered, 1), option.at):
            yield at, "", argv[at]
        covered = option.at + (2 if option.value is not None else 1)
        if option.value is not None and (option.name in ("drive", "blockdev", *_SHORT) or option.name in _OTHER_SHORT):
            yield option.at + 1, option.name, option.value


def _change(name: str, value: str, same: Same) -> list[str] | None:
    """Return the words that take the place of a disk argument; ``None`` where it stays."""
    if name in ("drive", "blockdev"):
        return _change_json(value, same) if value.startswith("{") else _change_fields(name, value, same)
    new = same(value)
    if new is None:
        return None
    if name in _OTHER_SHORT:
        return [new]
    drive = f"file={_commas(new)},format=qcow2,{_SHORT[name or 'hda']},rerror=stop,werror=stop"
    return [drive] if name else ["-drive", drive]


def _change_fields(name: str, value: str, same: Same) -> list[str] | None:
    """Change ``key=value,…``; QEMU takes the last of equal keys, and a doubled comma for a comma."""
    fields = value.replace(",,", "\0").split(",")
    found = {}
    for place, field in enumerate(fields):
        key, equals, text = field.partition("=")
        if equals:
            found[key] = (place, text.replace("\0", ","))
    changed = False
    for key, (place, text) in found.items():
        if not _names_file(name, key, text) or (new := same(text)) is None:
            continue
        fields[place] = f"{key}={_commas(new)}"
        changed = True
        driver = f"{key.removesuffix('filename')}driver"
        if found.get(driver, (0, ""))[1] == "host_device":
            fields[found[driver][0]] = f"{driver}=file"
        elif key == "filename" and fields[0] == "host_device":
            fields[0] = "file"  # a first bare word is the driver
    if not changed:
        return None
    if name == "drive" and found.get("if", (0, ""))[1] in _BUSES_WITH_POLICIES:
        fields += [f"{policy}=stop" for policy in _POLICIES if policy not in found]
    return [",".join(fields).replace("\0", ",,")]


def _names_file(name: str, key: str, text: str) -> bool:
    """Say whether a key of a drive or a node has a file's name as its value."""
    if name == "drive" and key == "file":
        return True
    return (key == "filename" or key.endswith(".filename")) and "backing." not in f".{key}" and bool(text)


def _change_json(value: str, same: Same) -> list[str] | None:
    members = _members(value)
    return [json.dumps(members)] if _change_members(members, same) else None


def _change_members(members: dict[str, Any], same: Same) -> bool:
    changed = False
    for key, item in members.items():
        if isinstance(item, dict) and key != "backing":
            changed |= _change_members(item, same)
        # Flat keys with dots are as good as objects.
        elif isinstance(item, str) and _names_file("blockdev", key, item) and (new := same(item)) is not None:
            members[key] = new
            changed = True
            driver = f"{key.removesuffix('filename')}driver"
            if members.get(driver) == "host_device":
                members[driver] = "file"
    return changed


def _has_backing(name: str, value: str) -> bool:
    return any("backing" in key.split(".") for key, _ in flat(Option(name, value, "")))


def _with_backing(name: str, value: str) -> Reason:
    """Return why the image stays: the user chose another backing image than the image's own, and so has an overlay."""
    return Reason(
        "disk-with-backing",
        f"{printable(f'-{name} {value}', 200)} names the backing image itself, and an overlay has another.",
        "Leave it out: QEMU finds the backing image that is written in the image.",
    )


def _above(argv: Sequence[str], touched: set[str]) -> list[str]:
    """Return the arguments of the nodes that stand on changed ones, and put their names into ``touched``."""
    found: dict[str, None] = {}
    nodes = [option.value or "" for option in options(argv) if option.name == "blockdev"]
    grown = True
    while grown:
        grown = False
        for value in nodes:
            edges = {text for key, text in flat(Option("blockdev", value, "")) if key.split(".")[-1] == "file"}
            if edges & touched and value not in found:
                found[value] = None
                touched |= _names("blockdev", value)
                grown = True
    return list(found)


def _with_policies(argv: Sequence[str], touched: set[str]) -> dict[int, list[str]]:
    """Return the devices that stand on changed nodes or drives, with policies where they can have them."""
    words = {}
    for option in options(argv):
        fields = dict(flat(option))
        driver = fields.get("driver", fields.get("", ""))
        missing = [policy for policy in _POLICIES if policy not in fields]
        if option.name != "device" or option.value is None or fields.get("drive") not in touched or not missing:
            continue
        if not driver.startswith(_DEVICES_WITH_POLICIES):
            continue
        if option.value.startswith("{"):
            words[option.at + 1] = [json.dumps({**_members(option.value), **dict.fromkeys(missing, "stop")})]
        else:
            words[option.at + 1] = [",".join([option.value, *(f"{policy}=stop" for policy in missing)])]
    return words


def _names(name: str, value: str) -> set[str]:
    """Return the names under which devices and other nodes use what a disk argument makes."""
    if name not in ("drive", "blockdev"):
        return set()
    pairs = flat(Option(name, value, ""))
    # A drive on a bus of its own has its device and its policies already; its id names it for nobody else.
    own = name == "drive" and dict(pairs).get("if", "") != "none"
    return set() if own else {text for key, text in pairs if key.split(".")[-1] in ("node-name", "id")}


def flat(option: Option) -> list[tuple[str, str]]:
    """Return an argument's pairs, those inside JSON's objects and lists with dots in their keys."""
    value = option.value or ""
    if not value.startswith("{"):
        return option.fields()
    found: list[tuple[str, str]] = []

    def walk(item: object, prefix: str) -> None:
        if isinstance(item, dict):
            for key, below in item.items():
                walk(below, f"{prefix}.{key}" if prefix else str(key))
        elif isinstance(item, list):
            for place, below in enumerate(item):
                walk(below, f"{prefix}.{place}")
        else:
            found.append((prefix, str(item)))

    walk(_members(value), "")
    return found


def _members(value: str) -> dict[str, Any]:
    try:
        members: Any = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _normal(path: str, cwd: str) -> str:
    return os.path.normpath(os.path.join(cwd, path))


def _commas(text: str) -> str:
    return text.replace(",", ",,")
