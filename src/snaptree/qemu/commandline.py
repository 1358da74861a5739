"""QEMU's command line as the user gave it: what in it matters to us, and what we add.  Not for: starting QEMU.

Words are read as QEMU's ``qemu_init()`` does: in any order, with one or two dashes, an option's argument is the
next word whatever it is, and every other word is a disk image.  What ``-readconfig`` brings in is not seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..model.names import printable
from ..model.reason import Reason

MONITOR_ID: Final = "snaptree-qmp"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FLAGS: Final = _words("""
    S async-teardown audio-help curses daemonize enable-kvm enable-sync-profile full-screen h help jitdump mem-prealloc
    no-acpi no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config nodefaults nographic old-param only-migratable
    perfmap portrait preconfig s semihosting singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict
""")
"""The options without an argument, of QEMU 7.2 to 10.0 for x86."""

VALUED: Final = _words("""
    D L M accel acpitable action add-fd append audio audiodev bios blockdev boot cdrom chardev chroot compat cpu d
    debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g gdb global hda hdb hdc hdd icount
    incoming initrd iscsi k kernel loadvm m machine mem-path mon monitor msg mtdblock name net netdev nic numa object
    option-rom overcommit parallel pflash pidfile plugin prom-env qmp qmp-pretty qtest qtest-log readconfig rotate rtc
    run-with runas sandbox sd seed semihosting-config serial set shim smbios smp spice tpmdev trace usbdevice uuid vga
    virtfs vnc watchdog-action xen-domid
""")
"""The options with one."""

_LISTS = _words(
    "L M accel audio audiodev chardev cpu d device display drive machine net netdev nic object tpmdev trace vga"
)
"""Options that print a list and end QEMU where their argument asks for help."""
_CHARACTER_DEVICES = _words("debugcon gdb monitor parallel qmp qmp-pretty qtest serial")


@dataclass(frozen=True, slots=True)
class Option:
    """An option as it stands there.

    :param name: without dashes.
    :param value: its argument; ``None`` where it has none.
    :param written: the words as the user wrote them.
    :param at: which word of the command line it is; its argument is the next one.
    """

    name: str
    value: str | None
    written: str
    at: int = 0

    def fields(self) -> list[tuple[str, str]]:
        """Return the ``key=value`` pairs of the argument; the key of a first bare word is empty, later ones are on."""
        value = self.value or ""
        if value.startswith("{"):
            try:
                members: Any = json.loads(value)
            except (ValueError, RecursionError):
                members = {}
            return [(key, str(item)) for key, item in members.items()] if isinstance(members, dict) else []
        found = []
        # A doubled comma is a comma.
        for place, field in enumerate(value.replace(",,", "\0").split(",")):
            key, equals, rest = field.replace("\0", ",").partition("=")
            found.append((key, rest) if equals else ("", key) if place == 0 else (key, "on"))
        return found


def options(argv: Sequence[str]) -> Iterator[Option]:
    """Yield the options of a command line whose first word is the program."""
    at = 1
    while at < len(argv):
        word = argv[at]
        following = argv[at + 1] if at + 1 < len(argv) else None
        if not word.startswith("-"):
            at += 1
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        takes = name in VALUED or (name not in FLAGS and name != "" and not (following or "-").startswith("-"))
        if takes and following is not None:
            yield Option(name, following, f"{word} {following}", at)
            at += 2
        else:
            yield Option(name, None, word, at)
            at += 1


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What in a command line matters to us.  Where an option is named, it is as the user wrote it.

    :param paused: ``-S``.
    :param discards: the options that make QEMU throw all writes away: ``-snapshot``, a drive's ``snapshot=on``.
    :param no_shutdown: QEMU stays when the guest powers off; also by ``-action``.
    :param no_reboot: QEMU ends when the guest reboots; also by ``-action``.
    :param stdio: the options that use the terminal.
    :param prints: the options that make QEMU print something and end.
    :param runas: the user that QEMU becomes.
    :param nographic: ``-nographic``.
    :param default_monitor: QEMU would make itself a human monitor, because the user chose none.
    :param default_serial: QEMU would make itself a serial port, because the user chose none.
    :param chardev_ids: the ids that are taken.
    """

    program: str = ""
    paused: bool = False
    incoming: str | None = None
    loadvm: str | None = None
    discards: tuple[str, ...] = ()
    daemonize: bool = False
    preconfig: bool = False
    no_shutdown: bool = False
    no_reboot: bool = False
    stdio: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()
    icount: str | None = None
    pidfile: str | None = None
    chroot: str | None = None
    runas: str | None = None
    nographic: bool = False
    default_monitor: bool = True
    default_serial: bool = True
    chardev_ids: frozenset[str] = frozenset()


def analyse(argv: Sequence[str]) -> CommandLine:
    """Return what a command line says."""
    given = list(options(argv))
    last = {option.name: option.value for option in given}
    actions = {field for option in given if option.name == "action" for field in option.fields()}
    run_with = dict(field for option in given if option.name == "run-with" for field in option.fields())
    nographic = next((option.written for option in given if option.name == "nographic"), None)
    default_monitor, default_serial = _default_monitor(given), _default_serial(given)
    stdio = [option.written for option in given if _uses_stdio(option)]
    if nographic is not None and (default_monitor or default_serial):
        stdio.append(nographic)
    return CommandLine(
        program=argv[0] if argv else "",
        paused="S" in last,
        incoming=last.get("incoming"),
        loadvm=last.get("loadvm"),
        discards=tuple(option.written for option in given if _discards(option)),
        daemonize="daemonize" in last,
        preconfig="preconfig" in last,
        no_shutdown="no-shutdown" in last or ("shutdown", "pause") in actions,
        no_reboot="no-reboot" in last or ("reboot", "shutdown") in actions,
        stdio=tuple(stdio),
        prints=tuple(option.written for option in given if _prints(option)),
        icount=last.get("icount"),
        pidfile=last.get("pidfile"),
        chroot=last.get("chroot", run_with.get("chroot")),
        runas=last.get("runas", run_with.get("user")),
        nographic=nographic is not None,
        default_monitor=default_monitor,
        default_serial=default_serial,
        chardev_ids=frozenset(
            value for option in given if option.name == "chardev" for key, value in option.fields() if key == "id"
        ),
    )


def refusals(command: CommandLine, detach: bool) -> tuple[Reason, ...]:
    """Return why we cannot run such a QEMU; empty where we can.

    :param detach: nobody is at the terminal.
    """
    found = []

    def refuse(code: str, message: str, remedy: str) -> None:
        found.append(Reason(code, message, remedy))

    for option in command.prints:
        refuse(
            "prints-and-ends", f"{printable(option)} makes QEMU print something and end.", "Call QEMU itself for it."
        )
    if command.loadvm is not None:
        refuse(
            "loadvm",
            f"-loadvm {printable(command.loadvm)} would load a snapshot that is not in the lineage.",
            "Leave it out, and load a snapshot by `snaptree load` once the VM runs.",
        )
    for option in command.discards:
        refuse(
            "writes-discarded",
            f"{printable(option)} makes QEMU throw away what is written to disks, and every snapshot with it.",
            "Leave it out; take a snapshot by `snaptree create`, and go back to it by `snaptree load`.",
        )
    if command.daemonize:
        refuse(
            "daemonize",
            "-daemonize would take QEMU out of the supervisor's sight.",
            "Leave it out, and use `snaptree run --detach`.",
        )
    if command.preconfig:
        refuse(
            "preconfig",
            "-preconfig makes QEMU wait for commands before it makes the machine, and snaptree does not give them.",
            "Leave it out, or start QEMU yourself and then use `snaptree attach`.",
        )
    for option in command.stdio if detach else ():
        refuse(
            "stdio-detached",
            f"{printable(option)} uses the terminal, and a detached QEMU has none.",
            "Leave out --detach, or send it to a socket or a file, for example -display none -serial file:serial.log.",
        )
    return tuple(found)


def with_monitor(argv: Sequence[str], fd: int) -> list[str]:
    """Return the command line with a QMP monitor of ours, that starts paused.

    :param fd: a listening Unix socket that QEMU inherits.
    """
    command = analyse(argv)
    id, count = MONITOR_ID, 1
    while id in command.chardev_ids:
        count += 1
        id = f"{MONITOR_ID}-{count}"
    added = ["-chardev", f"socket,id={id},fd={fd},server=on,wait=off", "-mon", f"chardev={id},mode=control"]
    if command.default_monitor:
        # Any -mon takes away the human monitor that QEMU makes by default: say what it would have made
        # (qemu_create_default_devices()), so that the user's terminal and window are as without us.
        if not command.nographic:
            added += ["-monitor", "vc:80Cx24C"]
        elif command.default_serial:
            added += ["-serial", "mon:stdio"]
        else:
            added += ["-monitor", "stdio"]
    if not command.paused and command.incoming is None:
        added.append("-S")
    return [*argv, *added]


def _default_monitor(given: Sequence[Option]) -> bool:
    return not any(
        option.name in ("nodefaults", "monitor", "qmp", "qmp-pretty", "mon")
        or (option.name in ("serial", "parallel") and (option.value or "").startswith("mon:"))
        for option in given
    )


def _default_serial(given: Sequence[Option]) -> bool:
    for option in given:
        if option.name in ("nodefaults", "serial"):
            return False
        if option.name in ("device", "global"):
            for key, value in option.fields():
                if "isa-serial" in ((value,) if key in ("", "driver") else (key.partition(".")[0],)):
                    return False
    return True


def _uses_stdio(option: Option) -> bool:
    value = option.value or ""
    if option.name in _CHARACTER_DEVICES:
        return value.removeprefix("mon:").partition(",")[0] == "stdio"
    if option.name == "chardev":
        return any(key in ("", "backend") and field == "stdio" for key, field in option.fields())
    if option.name == "display":
        return any(key in ("", "type") and field == "curses" for key, field in option.fields())
    return option.name == "curses"


def _discards(option: Option) -> bool:
    if option.name == "drive":
        return any(key == "snapshot" and value in ("on", "yes", "true", "y") for key, value in option.fields())
    if option.name == "set":
        group, _, rest = (option.value or "").partition(".")
        return group == "drive" and rest.partition(".")[2] in ("snapshot=on", "snapshot=yes", "snapshot=true")
    return option.name == "snapshot"


def _prints(option: Option) -> bool:
    if option.name in _LISTS:
        # The value of a key that takes any text may be the word "help"; a bare one never is.
        return any(
            value in ("help", "?") if key in ("", "driver", "format", "model", "type") else key in ("help", "?")
            for key, value in option.fields()
        )
    return option.name in ("h", "help", "version", "audio-help", "dump-vmstate")
