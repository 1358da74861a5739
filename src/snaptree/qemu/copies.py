"""What in a QEMU command line two VMs cannot have at the same time.  Not for: disks, of which every copy has its own.

Where an argument holds a placeholder, each copy has something else there.  What ``-readconfig`` brings in is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..model.names import printable
from ..model.reason import Reason
from . import backends
from .backends import CLIENT, DESCRIPTOR, FILE, HOST_DEVICE, INTERFACE, PORT, SOCKET, Use
from .commandline import Option, options
from .diskargs import flat
from .placeholders import wanted

_REMEDIES: Final = {
    PORT: "Let each copy have its own: write {{port:NAME}} in its place, for example {example}.",
    SOCKET: "Let each copy have its own: put it into {{dir}}, for example {example}.",
    FILE: "Let each copy have its own: put it into {{dir}}, for example {example}.",
    CLIENT: "Let each copy have its own: put it into {{dir}}, for example {example}, and serve there for each copy.",
    INTERFACE: "Leave ifname= out, then QEMU takes a new interface; or use -netdev user or bridge.",
    DESCRIPTOR: "Let QEMU open it itself, by its path or its name.",
    HOST_DEVICE: "Leave it out of a VM that is to be copied.",
}
_SENTENCES: Final = {
    PORT: "takes port {what}, which only one VM can have",
    SOCKET: "serves at {what}, where only one VM can",
    FILE: "writes {what}, which only one VM can",
    CLIENT: "connects to {what}, which serves one VM",
    INTERFACE: "takes the network interface {what}, which only one VM can have",
    DESCRIPTOR: "uses the descriptor {what} of the process that started QEMU, which a copy does not get",
    HOST_DEVICE: "takes the host's device {what}, which only one VM can have",
}


@dataclass(frozen=True, slots=True)
class Copies:
    """What stands in the way of copies of a VM.

    :param refusals: with these no second VM starts, or it would spoil the first one's.
    :param notes: what all copies share, and what users should know of.
    """

    refusals: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()


def collisions(argv: Sequence[str]) -> Copies:
    """Return what copies of a VM would have in common.

    :param argv: the command line as the user gave it, with its placeholders.
    """
    refusals: list[Reason] = []
    notes: list[Reason] = []
    given = list(options(argv))
    for option in given:
        for use in _uses(option, given):
            if not wanted([use.what]):
                refusals.append(_reason(option, use))
        refusals.extend(_fixed_cid(option))
        notes.extend(_fixed_mac(option))
        if option.name == "readconfig":
            notes.append(
                Reason(
                    "fork-unseen",
                    f"What {printable(option.written)} brings in is not seen, and could collide between copies.",
                    "Write it on the command line.",
                )
            )
    return Copies(tuple(refusals), tuple(notes))


def _reason(option: Option, use: Use) -> Reason:
    sentence = _SENTENCES[use.kind].format(what=printable(use.what))
    remedy = _REMEDIES[use.kind].format(example=use.example)
    return Reason(f"fork-{use.kind}", f"{printable(option.written, 200)} {sentence}.", remedy)


def _uses(option: Option, given: Sequence[Option]) -> Iterator[Use]:
    """Yield everything of the host that an option takes for itself."""
    value = option.value or ""
    read = _READERS.get(option.name)
    if read is not None:
        yield from read(option.name, value)
    pairs = flat(option)
    fields = dict(pairs)
    if option.name == "chardev":
        yield from backends.chardev(fields, served_once=fields.get("id", "") in _for_one(given))
    elif option.name in ("netdev", "nic", "net"):
        yield from backends.network(option.name, pairs)
    elif option.name == "object":
        yield from backends.made_object(fields)
    elif option.name == "device":
        yield from _device(fields)


def _for_one(given: Sequence[Option]) -> set[str]:
    """Return the ids of the character devices at whose other end a server can serve one VM only."""
    found = set()
    for option in given:
        fields = dict(flat(option))
        kind = fields.get("type", fields.get("driver", fields.get("", "")))
        if option.name == "tpmdev" or "vhost-user" in kind:
            found.add(fields.get("chardev", ""))
    return found - {""}


def _device(fields: dict[str, str]) -> Iterator[Use]:
    driver = fields.get("driver", fields.get("", ""))
    if driver == "usb-host" or driver.startswith("vfio-"):
        keys = ("host", "hostdevice", "sysfsdev", "hostaddr", "vendorid")
        yield Use(HOST_DEVICE, next((fields[key] for key in keys if key in fields), driver))


def _vnc(name: str, value: str) -> Iterator[Use]:
    if name == "display":
        if not value.startswith("vnc="):
            return
        value = value.removeprefix("vnc=")
    address, *rest = value.split(",")
    fields = {key: text if equals else "on" for key, equals, text in (field.partition("=") for field in rest)}
    if "reverse" in fields or address in ("none", ""):
        return
    example = "-vnc unix:{dir}/vnc.sock"
    if address.startswith("unix:"):
        yield Use(SOCKET, address.removeprefix("unix:"), example)
    elif "to" not in fields:
        display = address.rpartition(":")[2]
        yield Use(PORT, str(5900 + int(display)) if display.isdecimal() else display, example)
    if fields.get("websocket", "off") not in ("off", "no"):
        yield Use(PORT, fields["websocket"], "websocket={port:web}")


def _spice(_: str, value: str) -> Iterator[Use]:
    fields = dict(Option("spice", value, "").fields())
    for key in ("port", "tls-port"):
        if fields.get(key, "0") not in ("0", ""):
            yield Use(PORT, fields[key], f"-spice {key}={{port:spice}}")
    if fields.get("unix") in ("on", "yes", "true") and fields.get("addr"):
        yield Use(SOCKET, fields["addr"], "addr={dir}/spice.sock")


def _file(name: str, value: str) -> Iterator[Use]:
    yield Use(FILE, value, f"-{name} {{dir}}/{name.lower()}")


def _trace(_: str, value: str) -> Iterator[Use]:
    path = dict(Option("trace", value, "").fields()).get("file")
    if path:
        yield Use(FILE, path, "file={dir}/trace")


def _icount(_: str, value: str) -> Iterator[Use]:
    fields = dict(Option("icount", value, "").fields())
    if fields.get("rr") == "record" and "rrfile" in fields:
        yield Use(FILE, fields["rrfile"], "rrfile={dir}/replay")


def _audio(_: str, value: str) -> Iterator[Use]:
    fields = dict(flat(Option("audiodev", value, "")))
    if fields.get("driver", fields.get("", "")) == "wav":
        yield Use(FILE, fields.get("path", "qemu.wav"), "path={dir}/sound.wav")


def _gdb_short(_: str, __: str) -> Iterator[Use]:
    yield Use(PORT, "1234", "-gdb unix:{dir}/gdb.sock,server=on,wait=off in place of -s")


def _add_fd(_: str, value: str) -> Iterator[Use]:
    yield Use(DESCRIPTOR, dict(Option("add-fd", value, "").fields()).get("fd", value))


_READERS: Final[dict[str, Callable[[str, str], Iterator[Use]]]] = {
    **dict.fromkeys(
        ("serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb", "qtest"), backends.character_device
    ),
    **dict.fromkeys(("pidfile", "D", "qtest-log"), _file),
    **dict.fromkeys(("vnc", "display"), _vnc),
    "spice": _spice,
    "trace": _trace,
    "icount": _icount,
    "audiodev": _audio,
    "s": _gdb_short,
    "add-fd": _add_fd,
}


def _fixed_cid(option: Option) -> Iterator[Reason]:
    fields = dict(flat(option))
    cid = fields.get("guest-cid") if option.name == "device" else None
    if cid is not None and not wanted([cid]):
        yield Reason(
            "fork-cid",
            f"{printable(option.written, 200)} takes the vsock context id {printable(cid)}; only one VM can have it.",
            "Let each copy have its own: write guest-cid={cid}.",
        )


def _fixed_mac(option: Option) -> Iterator[Reason]:
    fields = dict(flat(option))
    mac = fields.get("mac" if option.name in ("device", "nic") else "macaddr")
    if option.name in ("device", "nic", "net") and mac is not None and not wanted([mac]):
        yield Reason(
            "fork-mac",
            f"All copies have the MAC address {printable(mac)} of {printable(option.written, 200)}.",
            "Keep them in networks of their own, as -netdev user is, or write mac={mac:NAME}.",
        )
