"""Where guest RAM lies by a command line, and what is added so that it lies in a file of ours.  Not for: making files.

The pages way needs RAM that QEMU maps shared from a file (``memory-backend-file,share=on``), because that is what the
migration capability ``x-ignore-shared`` leaves out: from QEMU 8.1 on it no longer leaves ``memory-backend-memfd`` out.
The backend gets the id of the block that the machine type makes itself: with another one, a snapshot of an ordinary
QEMU fails here after the disks were reverted, and ours fails there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..model.names import printable
from . import sizes
from .machines import Emulator
from .ramgiven import Backend, Given, Unsuitable, read_json
from .ramunseen import CONFIGURED, refuse_unseen

Way = Literal["pages", "full"]
Wanted = Literal["auto", "full", "pages"]


@dataclass(frozen=True, slots=True)
class RAMBlock:
    """A piece of guest RAM in a shared file.

    :param id: QEMU's name of the RAM block.
    :param path: the user's own file; empty for a memfd of ours, that has to be made.
    """

    id: str
    size_bytes: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class RAMPlan:
    """How QEMU is started, and where its RAM lies then.

    :param why: for the full way, a sentence that says why; else empty.
    :param remedy: for the full way, a sentence that says how to get the pages way; may be empty.
    :param blocks: for the pages way, all RAM that the pages way looks after.
    :param template: the command line, with a mark where the number of a descriptor belongs.
    :param ram_id: the block that we have added; empty where the user's own backends stay.
    """

    way: Way
    why: str
    remedy: str
    blocks: tuple[RAMBlock, ...]
    template: tuple[str, ...]
    ram_id: str = ""

    @property
    def ours(self) -> tuple[RAMBlock, ...]:
        """The blocks for which a memfd of ours is needed."""
        return tuple(block for block in self.blocks if not block.path)

    @property
    def reason(self) -> str:
        """Why it is the full way and what to do, as one text; empty for the pages way."""
        return f"{self.why} {self.remedy}".strip()

    def argv(self, descriptors: Mapping[str, int]) -> list[str]:
        """Return the command line.

        :param descriptors: for each block of ours, by its id, the memfd that QEMU inherits.
        """
        words = list(self.template)
        for id, fd in descriptors.items():
            mark = _mark(id)
            in_json = json.dumps(mark)[1:-1]
            words = [word.replace(mark, str(fd)).replace(in_json, str(fd)) for word in words]
        return words


def full(argv: Sequence[str], why: str, remedy: str = "") -> RAMPlan:
    """Return the plan that leaves the command line as it is."""
    return RAMPlan("full", why, remedy, (), tuple(argv))


def plan(
    argv: Sequence[str],
    ask: Callable[[str | None, bool], Emulator],
    groups: Callable[[str], frozenset[str]] = lambda path: CONFIGURED,
) -> RAMPlan:
    """Return where RAM shall lie.

    :param argv: the user's command line.
    :param ask: returns what the program says about itself; called with the machine type (``None``: the default one),
        and whether its RAM without ``-m`` is wanted.  What it raises passes.
    :param groups: returns the names of the groups in a ``-readconfig`` file.
    """
    given = Given.of(argv)
    try:
        refuse_unseen(given, groups)
        if given.nodes_with_memdev or given.memdev:
            return _with_the_users(argv, given, ask)
        return _with_ours(argv, given, ask)
    except Unsuitable as reason:
        return full(argv, reason.why, reason.remedy)


# Backends of the user


def _with_the_users(argv: Sequence[str], given: Given, ask: Callable[[str | None, bool], Emulator]) -> RAMPlan:
    ids = given.nodes_with_memdev or [given.memdev]
    words = list(argv)
    blocks = []
    for id in dict.fromkeys(ids):
        backend = given.backends.get(id)
        if backend is None:
            raise Unsuitable(f"There is no memory backend {printable(id)} on the command line.")
        blocks.append(_use(words, backend))
    blocks += _dimms(words, given, ids)
    _require(ask(given.machine.get("type"), False))
    return RAMPlan("pages", "", "", tuple(blocks), tuple(words))


def _use(words: list[str], backend: Backend) -> RAMBlock:
    """Return the block of a backend of the user's; private RAM becomes a file of ours under the same id.

    :raises Unsuitable: where it is neither private RAM nor a shared file.
    """
    text, has = printable(backend.option.written), backend.members
    size = sizes.parse(has.get("size", ""))
    if not size:
        raise Unsuitable(f"The size of the memory backend {text} cannot be read.")
    if backend.kind == "ram":
        if "share" in has and not backend.shared:
            raise Unsuitable(f"{text} asks for RAM that is not shared.", "Leave out its share=off.")
        words[backend.option.at + 1] = _as_file(backend.option.value or "", backend.id)
        return RAMBlock(backend.id, size)
    if backend.kind == "file":
        if not backend.shared:
            raise Unsuitable(f"{text} maps its file privately.", "Give it share=on, or leave it out.")
        odd = [key for key in ("offset", "pmem", "readonly", "rom") if has.get(key, "off") not in ("off", "0", "auto")]
        if odd:
            raise Unsuitable(f"{text} has {odd[0]}.", f"Leave out its {odd[0]}, or the whole backend.")
        return RAMBlock(backend.id, size, has.get("mem-path", ""))
    raise Unsuitable(
        f"{text} is RAM that QEMU saves itself: only a memory-backend-file can be left out of its VM state.",
        "Leave it out, or write memory-backend-ram, and snaptree puts RAM into a memfd.",
    )


def _dimms(words: list[str], given: Given, main: Sequence[str]) -> list[RAMBlock]:
    """Return the blocks of memory that is plugged from the start.

    :raises Unsuitable: where anything else than RAM is shared: it would be left out of snapshots unseen.
    """
    plugged = {found.get("memdev", "") for _, found in given.devices if found.get("driver") == "pc-dimm"}
    blocks = []
    for backend in given.backends.values():
        if backend.id in main:
            continue
        if backend.id in plugged:
            blocks.append(_use(words, backend))
        elif backend.shared:
            raise Unsuitable(f"{printable(backend.option.written)} is shared, and is no RAM.", "Leave it out.")
    return blocks


def _as_file(value: str, id: str) -> str:
    """Return a ``memory-backend-ram`` as a file of ours."""
    if value.startswith("{"):
        added = {"qom-type": "memory-backend-file", **_file(id)}
        return json.dumps({**read_json(value), **added, "share": True, "x-use-canonical-path-for-ramblock-id": False})
    head, comma, rest = value.partition(",")
    if head in ("memory-backend-ram", "qom-type=memory-backend-ram"):
        value = f"memory-backend-file{comma}{rest}"
    else:
        value += ",qom-type=memory-backend-file"  # of two the later one counts
    return f"{value},{_text(id)}"


# A backend of ours


def _with_ours(argv: Sequence[str], given: Given, ask: Callable[[str | None, bool], Emulator]) -> RAMPlan:
    machine = given.machine.get("type")
    size = given.size_bytes()
    words = list(argv)
    emulator = _require(ask(machine, size is None))
    machine = machine or emulator.default_machine
    if machine not in emulator.ram_ids:
        raise Unsuitable(f"{printable(words[0])} has no machine type {printable(machine)}.")
    id = emulator.ram_ids[machine]
    size = size or emulator.ram_bytes.get(machine, 0)
    if not id or not size:
        raise Unsuitable(f"The machine type {machine} has no RAM of its own in one block.", "Choose another one.")
    if id in given.backends:
        raise Unsuitable(
            f"The id {id} of the machine's RAM is taken by {printable(given.backends[id].option.written)}.",
            f"Use it for RAM, by -machine memory-backend={id}, or give it another id.",
        )
    blocks = [RAMBlock(id, size), *_dimms(words, given, ())]
    bare = [option for option, node in given.nodes if "mem" not in node]
    added = ["-object", f"memory-backend-file,id={id},size={size},{_text(id)}"]
    if not bare:
        added += ["-machine", f"memory-backend={id}"]
    elif len(given.nodes) == 1:
        # A machine's backend and a node without one do not go together; a node's backend does the same.
        words[bare[0].at + 1] += f",memdev={id}"
    else:
        raise Unsuitable(
            "The NUMA nodes do not say where their RAM lies.",
            "Give each a memory backend: -object memory-backend-ram,id=ID,size=SIZE -numa node,memdev=ID.",
        )
    return RAMPlan("pages", "", "", tuple(blocks), (*words, *added), id)


def _require(emulator: Emulator) -> Emulator:
    if not (emulator.ignores_shared and emulator.saves_snapshots):
        raise Unsuitable(f"QEMU {emulator.version} cannot leave RAM out of a snapshot.", "Use QEMU 6.0 or newer.")
    return emulator


def _mark(id: str) -> str:
    return f"\0{id}\0"  # in no word of a command line


def _file(id: str) -> dict[str, str]:
    return {"mem-path": f"/proc/self/fd/{_mark(id)}"}


def _text(id: str) -> str:
    # Machine types up to 3.1 would name the block by its path, /objects/ID, unlike that of private RAM.
    path = _file(id)["mem-path"].replace(",", ",,")
    return f"mem-path={path},share=on,x-use-canonical-path-for-ramblock-id=off"
