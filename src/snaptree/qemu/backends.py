"""What of the host QEMU's character devices, networks and objects take for themselves.  Not for: judging it.

Legacy forms are read as QEMU's ``qemu_chr_parse_compat()`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

PORT: Final = "port"
SOCKET: Final = "socket"
FILE: Final = "file"
CLIENT: Final = "client"
INTERFACE: Final = "interface"
DESCRIPTOR: Final = "descriptor"
HOST_DEVICE: Final = "host-device"

_ON = ("on", "yes", "true", "y")
_HARMLESS_FILES = ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/full")


@dataclass(frozen=True, slots=True)
class Use:
    """Something that is taken.

    :param kind: one of the constants here.
    :param what: the port, the path, the name.
    :param example: how it would be of the VM's own.
    """

    kind: str
    what: str
    example: str = ""


def character_device(name: str, value: str) -> Iterator[Use]:
    """Yield what ``-serial``, ``-monitor`` and their like take: ``tcp:…``, ``unix:…``, ``file:…``."""
    value = value.removeprefix("mon:")
    kind, colon, rest = value.partition(":")
    address, *options = rest.split(",")
    fields = {key: text if equals else "on" for key, equals, text in (option.partition("=") for option in options)}
    # Without a word about it, gdb's and qtest's sockets serve.
    serves = fields.get("server") in _ON or name in ("gdb", "qtest")
    if kind in ("tcp", "telnet", "websocket") and colon and serves:
        yield Use(PORT, _port(address), f"-{name} {kind}::{{port:{name}}},server=on,wait=off")
    elif kind == "unix" and serves:
        yield Use(SOCKET, address, f"-{name} unix:{{dir}}/{name}.sock,server=on,wait=off")
    elif kind == "udp" and "@" in address:
        port = _port(address.rpartition("@")[2])
        if port not in ("", "0"):
            yield Use(PORT, port, f"-{name} udp:HOST:PORT@:{{port:{name}}}")
    elif kind == "file" and rest and address not in _HARMLESS_FILES:
        yield Use(FILE, address, f"-{name} file:{{dir}}/{name}.log")
    elif kind == "pipe" and rest:
        yield Use(FILE, address, f"-{name} pipe:{{dir}}/{name}")
    elif value.startswith("/dev/") and value not in _HARMLESS_FILES:
        yield Use(HOST_DEVICE, value)
    if "logfile" in fields:
        yield Use(FILE, fields["logfile"], "logfile={dir}/log")


def chardev(fields: Mapping[str, str], *, served_once: bool) -> Iterator[Use]:
    """Yield what ``-chardev`` takes.

    :param served_once: what it connects to serves one VM only.
    """
    backend, id = fields.get("backend", fields.get("", "")), fields.get("id", "ID")
    path = fields.get("path", "")
    serves = fields.get("server") in _ON
    if backend == "socket":
        if "fd" in fields:
            yield Use(DESCRIPTOR, fields["fd"])
        elif path and (serves or served_once):
            yield Use(SOCKET if serves else CLIENT, path, f"path={{dir}}/{id}.sock")
        elif serves and "port" in fields and "to" not in fields and fields["port"] != "0":
            yield Use(PORT, fields["port"], f"port={{port:{id}}}")
    elif backend == "udp" and fields.get("localport", "0") != "0":
        yield Use(PORT, fields["localport"], f"localport={{port:{id}}}")
    elif backend in ("file", "pipe") and path not in ("", *_HARMLESS_FILES):
        yield Use(FILE, path, f"path={{dir}}/{id}")
    elif backend in ("serial", "tty", "parallel", "parport") and path:
        yield Use(HOST_DEVICE, path)
    if "logfile" in fields:
        yield Use(FILE, fields["logfile"], f"logfile={{dir}}/{id}.log")


def network(name: str, pairs: Sequence[tuple[str, str]]) -> Iterator[Use]:
    """Yield what ``-netdev``, ``-nic`` and ``-net`` take."""
    fields = dict(pairs)
    kind = fields.get("type", fields.get("", ""))
    for key, text in pairs:
        if key.partition(".")[0] == "hostfwd":
            yield from _forwarded(text)
    if kind == "tap":
        if "ifname" in fields:
            yield Use(INTERFACE, fields["ifname"])
        for key in ("fd", "fds", "vhostfd", "vhostfds"):
            if key in fields:
                yield Use(DESCRIPTOR, fields[key])
    elif kind == "socket":
        if "fd" in fields:
            yield Use(DESCRIPTOR, fields["fd"])
        for key in ("listen", "localaddr"):
            if key in fields and "mcast" not in fields:
                yield Use(PORT, _port(fields[key]), f"{key}=:{{port:net}}")
    elif kind in ("stream", "dgram"):
        yield from _addressed(kind, fields)
    elif kind == "l2tpv3" and "srcport" in fields:
        yield Use(PORT, fields["srcport"], "srcport={port:net}")
    elif kind in ("af-xdp", "netmap") and "ifname" in fields:
        yield Use(INTERFACE, fields["ifname"])
    elif kind == "vhost-vdpa" and "vhostdev" in fields:
        yield Use(HOST_DEVICE, fields["vhostdev"])


def _forwarded(rule: str) -> Iterator[Use]:
    """Yield the port or the socket of a rule ``tcp:ADDRESS:PORT-GUEST:PORT``, or ``unix:PATH-GUEST:PORT``."""
    host, _, _ = rule.rpartition("-")
    if rule.startswith("unix:"):
        yield Use(SOCKET, host.removeprefix("unix:"), "hostfwd=unix:{dir}/ssh.sock-:22")
        return
    port = _port(host)
    if port not in ("", "0"):
        guest = rule.rpartition("-")[2]
        protocol = "udp" if rule.startswith("udp:") else "tcp"
        yield Use(PORT, port, f"hostfwd={protocol}::{{port:NAME}}-{guest}")


def _addressed(kind: str, fields: Mapping[str, str]) -> Iterator[Use]:
    side = "addr" if kind == "stream" else "local"
    if kind == "stream" and fields.get("server", "").lower() not in _ON:
        return
    if f"{side}.str" in fields:
        yield Use(DESCRIPTOR, fields[f"{side}.str"])
    if f"{side}.path" in fields:
        yield Use(SOCKET, fields[f"{side}.path"], f"{side}.path={{dir}}/net.sock")
    if f"{side}.port" in fields:
        yield Use(PORT, fields[f"{side}.port"], f"{side}.port={{port:net}}")


def made_object(fields: Mapping[str, str]) -> Iterator[Use]:
    """Yield what ``-object`` takes."""
    kind = fields.get("qom-type", fields.get("", ""))
    if kind == "filter-dump":
        yield Use(FILE, fields.get("file", "qemu-vlan0.pcap"), "file={dir}/net.pcap")
    elif kind == "memory-backend-file" and fields.get("share") in (*_ON, "True") and not _read_only(fields):
        if not re.match(r"/(dev/fd|proc/self/fd)/", fields.get("mem-path", "")):
            yield Use(FILE, fields.get("mem-path", ""), "mem-path={dir}/memory")
    elif kind == "input-linux":
        yield Use(HOST_DEVICE, fields.get("evdev", ""))
    elif kind == "can-host-socketcan":
        yield Use(HOST_DEVICE, fields.get("if", ""))


def _port(address: str) -> str:
    """Return the port of an address; a placeholder, which has a colon too, whole."""
    return address if "{" in address else address.rpartition(":")[2]


def _read_only(fields: Mapping[str, str]) -> bool:
    return fields.get("readonly") in (*_ON, "True")
