"""Each command against a supervisor's answers: what it asks, what it prints, and its exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from snaptree.cli.outcome import MEMBERS
from snaptree.engine import offline
from snaptree.model.errors import (
    Busy,
    NameTaken,
    NoSuchSnapshot,
    NotReady,
    ProtocolError,
    QEMUGone,
    SnaptreeError,
    all_errors,
    exit_codes,
)
from snaptree.model.reason import Reason
from snaptree.model.snapshot import SnapshotJSON
from snaptree.places.places import VMPlace

Run = Callable[..., SimpleNamespace]
Make = Callable[..., SnapshotJSON]
Supervise = Callable[..., Any]

VM = {
    "name": "dev",
    "state": "running",
    "run_state": "running",
    "qmp": "unix:/s",
    "qemu_pid": 1,
    "supervisor_pid": 2,
    "qemu_version": "7.2.22",
    "memory": "full",
    "memory_why": "",
    "tracker": None,
    "busy": None,
}
FULL = {
    "tag": "s1@…",
    "vmstate_device": "vda",
    "machine": {"machine": "pc-q35-7.2", "ram_size": 1 << 29, "cpu": "qemu64", "cpus": 2, "devices": ["e1000"]},
    "flaw": "",
    "children": ["s2", "s3"],
    "problems": [],
}


def entry(found: SnapshotJSON, action: str, **members: Any) -> dict[str, Any]:
    return {
        "at": "2026-01-02T03:04:05.678Z",
        "action": action,
        "name": found["name"],
        "id": found["id"],
        "from": "",
        "from_name": "",
        "client": "root snaptree[1]",
        "duration_ms": 412.4,
        "pause_ms": 398.1,
        "result": "ok",
        **members,
    }


def answers(found: SnapshotJSON, action: str) -> dict[str, Any]:
    return {
        f"snapshot-{action}": {},
        "query-snapshot": {**found, **FULL},
        "query-snapshots": [found],
        "query-snapshot-history": [entry(found, action, duration_ms=9), entry(found, action), entry(found, "rename")],
        "query-vm": VM,
        "query-vm-changed": {"changed": False, "memory": "full", "current": "s1", "reasons": []},
    }


def event(name: str, found: SnapshotJSON) -> dict[str, Any]:
    return {"event": name, "data": {"name": found["name"], "id": found["id"], "duration_ms": 5}}


def test_create_says_in_one_line_what_it_did(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    client = supervised(answers(snapshot(1), "create"), [event("SNAPSHOT_CREATED", snapshot(1))])
    done = snaptree("create", "dev", "s1", "-m", "clean")
    assert (done.code, done.err) == (0, "")
    assert done.out == "created s1 (00000001…) in 412 ms, VM paused 398 ms\n"
    assert client.asked[0] == ("snapshot-create", {"name": "s1", "description": "clean", "wait": True})
    assert client.asked[1] == ("query-snapshot", {"id": snapshot(1)["id"]})


@pytest.mark.parametrize("action", ["create", "load"])
def test_create_and_load_print_the_snapshot_and_its_times(
    action: str, supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    supervised(answers(snapshot(1), action))
    done = snaptree(action, "dev", "s1", "--json")
    assert (done.code, done.err) == (0, "")
    more = {"ram_loaded": True, "kept": None} if action == "load" else {}
    assert json.loads(done.out) == {**snapshot(1), "duration_ms": 412.4, "pause_ms": 398.1, **more}


@pytest.mark.parametrize("action", ["create", "load"])
@pytest.mark.parametrize("gone", [ProtocolError("It ended before the answer."), QEMUGone("QEMU has ended.")])
def test_what_was_done_is_said_also_where_the_vm_was_stopped_just_then(
    action: str,
    gone: SnaptreeError,
    supervised: Supervise,
    snaptree: Run,
    snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervised({**answers(snapshot(1), action), "query-snapshot": gone, "query-vm": gone})
    monkeypatch.setattr(offline, "snapshot", lambda place, **which: {**snapshot(1), **FULL})
    monkeypatch.setattr(offline, "history", lambda place, limit: [entry(snapshot(1), action)])
    done = snaptree(action, "dev", "s1", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["pause_ms"] == 398.1


def test_the_events_of_others_are_not_ours(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    client = supervised(
        answers(snapshot(1), "create"),
        [event("SNAPSHOT_CREATED", snapshot(1)), event("SNAPSHOT_CREATED", snapshot(2)), {"event": "STOP"}],
    )
    snaptree("create", "dev", "s1")
    assert ("query-snapshot", {"id": snapshot(1)["id"]}) in client.asked


def test_load_by_id_sends_the_id_and_consent(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    client = supervised({**answers(snapshot(1), "load"), "query-vm": {**VM, "state": "paused"}})
    done = snaptree("load", "dev", "--id", "00000001", "--allow-resize", "--no-wait")
    assert done.out == "loaded s1 (00000001…) in 412 ms, VM paused 398 ms; it is still paused, as it was\n"
    assert client.asked[0] == ("query-vm-changed", {"wait": False})
    assert client.asked[1] == ("snapshot-load", {"id": "00000001", "allow-resize": True, "wait": False})


@pytest.mark.parametrize(("word", "keep"), [("--keep", True), ("--discard", False)])
def test_keep_and_discard_are_sent_as_they_are_said(
    word: str, keep: bool, supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    client = supervised(answers(snapshot(1), "load"))
    assert snaptree("load", "dev", "s1", word).code == 0
    assert client.asked[0] == ("snapshot-load", {"name": "s1", "allow-resize": False, "wait": True, "keep": keep})


@pytest.mark.parametrize("command", [("load", "dev", "s1"), ("undo", "dev")])
def test_a_script_has_to_say_whether_to_keep_what_takes_seconds(
    command: tuple[str, ...], supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    changed = {"changed": True, "memory": "full", "current": "s1", "reasons": []}
    client = supervised({**answers(snapshot(1), "load"), "snapshot-undo": {}, "query-vm-changed": changed})
    done = snaptree(*command)
    assert done.code == 2
    assert "--keep" in done.err
    assert "--discard" in done.err
    assert [name for name, _ in client.asked] == ["query-vm-changed"]


@pytest.mark.parametrize(
    "changed",
    [
        {"changed": True, "memory": "pages", "reasons": []},
        {"changed": False, "memory": "full", "reasons": []},
        {"changed": True, "memory": "full", "reasons": [{"code": "guest-panicked"}]},
    ],
)
def test_a_script_need_not_say_it_where_that_costs_nothing_or_cannot_be(
    changed: dict[str, Any], supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    client = supervised({**answers(snapshot(1), "load"), "query-vm-changed": {"current": "s1", **changed}})
    assert snaptree("load", "dev", "s1").code == 0
    assert client.asked[1] == ("snapshot-load", {"name": "s1", "allow-resize": False, "wait": True})


def test_undo_says_where_it_went_and_what_it_kept(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    loaded = event("SNAPSHOT_LOADED", snapshot(2))
    loaded["data"] |= {"kept": "auto-1", "not_kept": ""}
    supervised({**answers(snapshot(2), "load"), "snapshot-undo": {}}, [loaded])
    done = snaptree("undo", "dev")
    assert done.out == "loaded s2 (00000002…) in 412 ms, VM paused 398 ms; what was before is kept as auto-1\n"


def test_what_could_not_be_kept_is_said(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    loaded = event("SNAPSHOT_LOADED", snapshot(2))
    loaded["data"] |= {"kept": None, "not_kept": "The guest has panicked."}
    supervised(answers(snapshot(2), "load"), [loaded])
    done = snaptree("load", "dev", "s2")
    assert (done.code, done.err) == (0, "What dev was before could not be kept: The guest has panicked.\n")


def test_delete_with_children_names_everything_that_went(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    line = [snapshot(1), snapshot(2, 1), snapshot(3, 2), snapshot(4)]
    client = supervised(
        {**answers(line[0], "delete"), "query-snapshots": line}, [event("SNAPSHOT_DELETED", s) for s in line[2::-1]]
    )
    done = snaptree("delete", "dev", "s1", "--children", "--json")
    assert [s["name"] for s in json.loads(done.out)["deleted"]] == ["s1", "s2", "s3"]
    assert ("snapshot-delete", {"name": "s1", "children": True, "wait": True}) in client.asked
    said = snaptree("delete", "dev", "s1", "--children").out
    assert said == "deleted s1 (00000001…) and the 2 snapshots below it in 5 ms\n"


def test_rename_and_describe_print_the_snapshot_as_it_is_now(
    supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    client = supervised({**answers(snapshot(1), "rename"), "snapshot-describe": {}})
    assert set(json.loads(snaptree("rename", "dev", "s1", "new", "--json").out)) == set(MEMBERS)
    assert set(json.loads(snaptree("describe", "dev", "--id", "00000001", "text", "--json").out)) == set(MEMBERS)
    assert ("snapshot-rename", {"name": "s1", "new-name": "new", "wait": True}) in client.asked
    assert ("snapshot-describe", {"id": "00000001", "description": "text", "wait": True}) in client.asked


def test_list_is_an_aligned_table_with_every_word(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    whole, torn = snapshot(1, description="\x1b[2Jclean\ninstall"), snapshot(22, 1, current=True, consistent=False)
    torn["devices"][1]["present"] = False
    supervised({"query-snapshots": [whole, torn]})
    assert snaptree("list", "dev").out.splitlines() == [
        "   NAME  CREATED (UTC)          VM SIZE     VM CLOCK  RAM   WHOLE           DESCRIPTION",
        "   s1    2026-01-02 03:04:05  104.9 MiB  1:02:03.456  full  ✓               \\x1b[2Jclean\\ninstall",
        "*  s22   2026-01-02 03:04:05  104.9 MiB  1:02:03.456  full  no: not on vdb",
    ]


def test_foreign_snapshots_are_shown_without_obeying_their_names(
    supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    client = supervised({"query-snapshots": [{**snapshot(1), "id": None, "name": "x\x1b]0;y\x07", "foreign": True}]})
    done = snaptree("list", "dev", "--foreign")
    assert " x\\x1b]0;y\\x07  2026" in done.out
    assert "(foreign)" in done.out
    assert client.asked == [("query-snapshots", {"foreign": True})]


def test_list_json_is_the_array_in_ascii(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    found = [snapshot(1, description="Größe \x9b\udc80")]
    supervised({"query-snapshots": found})
    done = snaptree("list", "dev", "--json")
    assert done.out.isascii()
    assert json.loads(done.out) == found


def test_a_vm_without_snapshots_prints_no_data(supervised: Supervise, snaptree: Run) -> None:
    supervised({"query-snapshots": []})
    for command in ("list", "tree"):
        done = snaptree(command, "dev")
        assert (done.code, done.out) == (0, "")
        assert "snaptree create dev" in done.err
        assert json.loads(snaptree(command, "dev", "--json").out) == []


def test_tree_marks_the_current_and_what_is_wrong(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    supervised(
        {
            "query-snapshots": [
                snapshot(1, description="clean"),
                snapshot(2, 1),
                snapshot(3, 1, current=True),
                snapshot(4, 9, consistent=False),
            ]
        }
    )
    assert snaptree("tree", "dev").out.splitlines() == [
        "○ s1    2026-01-02 03:04:05  clean",
        "├─○ s2  2026-01-02 03:04:05",
        "● s3    2026-01-02 03:04:05  current",
        "",
        "○ s4    2026-01-02 03:04:05  not whole: see `snaptree show`  its parent 00000009 is lost",
    ]


def test_tree_json_is_the_nested_form(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    supervised({"query-snapshots": [snapshot(1), snapshot(2, 1), snapshot(3, 1), snapshot(4), snapshot(5, 2)]})
    roots = json.loads(snaptree("tree", "dev", "--json").out)

    def names(items: list[Any]) -> list[Any]:
        return [(item["name"], names(item["children"])) for item in items]

    assert names(roots) == [("s1", [("s2", [("s5", [])]), ("s3", [])]), ("s4", [])]
    assert {k: v for k, v in roots[1].items() if k != "children"} == snapshot(4)


def test_a_line_of_thousands_is_printed_in_every_form(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    supervised({"query-snapshots": [snapshot(i, i - 1) for i in range(1, 3001)]})
    assert snaptree("tree", "dev").out.count("\n○ ") == 2999
    assert snaptree("tree", "dev", "--json").out.count('"children": [') == 3000
    assert snaptree("list", "dev").out.count("\n") == 3001


def test_show_has_every_device_and_all_problems(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    torn: Any = {**snapshot(1, description="two\nlines", consistent=False), **FULL, "problems": ["First.", "Second."]}
    supervised({"query-snapshot": torn})
    done = snaptree("show", "dev", "s1")
    lines = done.out.splitlines()
    assert lines[0] == "s1"
    words = done.out.split()
    for word in ("vda", "vdb", "/a.qcow2", "/b.qcow2", "First.", "Second.", "pc-q35-7.2", "e1000", "lines", "2.0"):
        assert word in words
    assert "  children     s2, s3" in lines
    assert json.loads(snaptree("show", "dev", "s1", "--json").out) == torn


def test_show_says_why_ram_is_kept_as_it_is_on_a_line_of_its_own(
    supervised: Supervise, snaptree: Run, snapshot: Make
) -> None:
    supervised({"query-snapshot": {**snapshot(1), **FULL, "memory_why": "The kernel is too old."}})
    lines = snaptree("show", "dev", "s1").out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.endswith("inside QEMU's own VM state"))
    assert lines[place + 1].strip() == "The kernel is too old."


def test_log_is_a_table_oldest_first(supervised: Supervise, snaptree: Run, snapshot: Make) -> None:
    nil = snapshot(1)["parent_id"]
    client = supervised(
        {
            "query-snapshot-history": [
                {**entry(snapshot(1), "create"), "from": nil},
                {**entry(snapshot(1), "load", duration_ms=12345), "from": snapshot(2)["id"], "from_name": "s2"},
                {**entry(snapshot(3), "create", result="failed:\x07 No space."), "from": ""},
            ]
        }
    )
    lines = snaptree("log", "dev", "-n", "3").out.splitlines()
    assert client.asked == [("query-snapshot-history", {"limit": 3})]
    assert lines[0].split() == ["AT", "(UTC)", "ACTION", "NAME", "ID", "FROM", "DURATION", "PAUSE", "CLIENT", "RESULT"]
    assert [line.split()[5] for line in lines[1:]] == ["-", "s2", "unknown"]
    assert "12.3 s" in lines[2]
    assert lines[3].endswith("failed:\\x07 No space.")


def test_status_gives_every_reason_with_device_and_remedy(supervised: Supervise, snaptree: Run) -> None:
    reasons = [
        Reason("raw-disk", "It is raw.", "Convert it.", "vdb").to_json(),
        Reason("block-job", "A job runs.", "Wait.").to_json(),
    ]
    supervised(
        {
            "query-vm": {**VM, "busy": "create", "run_state": "paused", "state": "paused"},
            "query-current-snapshot": {"known": True, "name": "s1", "id": "i", "why": ""},
            "query-snapshot-status": {"ready": False, "reasons": reasons, "advice": reasons[:1]},
        }
    )
    done = snaptree("status", "dev")
    assert done.code == 0
    assert done.out.splitlines() == [
        "dev cannot be snapshotted now, for 2 reasons:",
        "  vdb: It is raw.",
        "    Convert it.",
        "  A job runs.",
        "    Wait.",
        "state    paused",
        "busy     with a create",
        "current  s1  i",
        "RAM      in full, inside QEMU's own VM state",
        "advice",
        "  vdb: It is raw.",
        "    Convert it.",
    ]
    document = json.loads(snaptree("status", "dev", "--json").out)
    assert (document["ready"], document["reasons"]) == (False, reasons)


def test_vms_asks_each_supervisor_and_survives_a_mute_one(supervised: Supervise, snaptree: Run) -> None:
    supervised({"query-vm": {**VM, "state": "paused"}})
    found = json.loads(snaptree("vms", "--json").out)
    assert [set(vm) for vm in found] == [{"name", "state", "qmp", "qemu_pid", "supervisor_pid"}]
    assert found[0]["state"] == "paused"
    assert found[0]["qmp"].startswith("unix:/")
    supervised({"query-vm": QEMUGone("Nobody answers.")}, name="mute")
    done = snaptree("vms")
    assert "did not answer" in done.err
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [["dev", "running"], ["mute", "running"]]


@pytest.mark.parametrize("error", [e for e in all_errors() if e.exit_code != 130])
def test_an_error_ends_with_the_exit_code_of_its_class(
    error: type[SnaptreeError], supervised: Supervise, snaptree: Run
) -> None:
    supervised({"snapshot-create": error("What, where, why.", "What now.")})
    done = snaptree("create", "dev", "s1", "--json")
    assert (done.code, done.err) == (error.exit_code, "")
    assert json.loads(done.out)["error"] == {"code": error.code, "message": "What, where, why.", "remedy": "What now."}
    done = snaptree("create", "dev", "s1")
    assert (done.code, done.out, done.err) == (error.exit_code, "", "snaptree: What, where, why.\n  What now.\n")
    assert error.exit_code in exit_codes()


def test_all_reasons_are_printed_not_only_the_first(supervised: Supervise, snaptree: Run) -> None:
    reasons = (Reason("a", "It is raw.", "Convert it.", "vdb"), Reason("b", "A job runs.", ""))
    changed = {"changed": False, "memory": "full", "current": "s1", "reasons": []}
    supervised(
        {
            "query-vm-changed": changed,
            "snapshot-load": NotReady("s1 cannot be loaded now: It is raw.", "Convert it.", reasons),
        }
    )
    done = snaptree("load", "dev", "s1")
    assert done.code == 4
    assert done.err == "snaptree: s1 cannot be loaded now:\n  vdb: It is raw.\n    Convert it.\n  A job runs.\n"
    assert json.loads(snaptree("load", "dev", "s1", "--json").out)["error"]["reasons"] == [r.to_json() for r in reasons]


def test_an_interrupt_ends_with_130(supervised: Supervise, snaptree: Run) -> None:
    supervised({"snapshot-create": KeyboardInterrupt()})
    assert snaptree("create", "dev", "s1").code == 130
    done = snaptree("create", "dev", "s1", "--json")
    assert (done.code, json.loads(done.out)["error"]["code"]) == (130, "interrupted")


def test_a_failure_of_our_own_is_a_document_too(supervised: Supervise, snaptree: Run) -> None:
    supervised({"snapshot-create": ZeroDivisionError("x")})
    done = snaptree("create", "dev", "s1", "--json")
    assert (done.code, json.loads(done.out)["error"]["code"]) == (1, "failed")
    assert "Traceback" in done.err


@pytest.mark.parametrize("error", [NameTaken("A.", "B."), NoSuchSnapshot("A.", "B."), Busy("A.", "B.")])
def test_qemus_words_cannot_steer_the_terminal(error: SnaptreeError, supervised: Supervise, snaptree: Run) -> None:
    supervised({"snapshot-create": type(error)("Said:\n\x1b[31mred", "Do\x07 it.")})
    assert snaptree("create", "dev", "s1").err == "snaptree: Said:\n  \\x1b[31mred\n  Do\\x07 it.\n"


@pytest.mark.parametrize(
    "words",
    [
        ("create", "dev", "s"),
        ("load", "dev", "s"),
        ("delete", "dev", "s"),
        ("stop", "dev"),
    ],
)
def test_what_needs_a_running_vm_is_refused_for_a_stopped_one(
    words: tuple[str, ...], stopped_vm: VMPlace, snaptree: Run
) -> None:
    done = snaptree(*words)
    assert done.code == 4
    assert "snaptree run dev --" in done.err


@pytest.mark.parametrize("command", ["status", "list", "tree", "log", "qmp", "forget", "stop"])
def test_an_unknown_vm_names_those_that_look_alike(command: str, stopped_vm: VMPlace, snaptree: Run) -> None:
    done = snaptree(command, "dve")
    assert done.code == 3
    assert "Did you mean dev?" in done.err


def test_a_name_that_no_vm_can_have_is_usage(snaptree: Run) -> None:
    for words in (("list", "Dev"), ("run", "../x", "--", "qemu"), ("attach", "")):
        assert snaptree(*words).code == 2


def test_qmp_prints_the_address_also_of_a_stopped_vm(stopped_vm: VMPlace, snaptree: Run) -> None:
    done = snaptree("qmp", "dev")
    assert (done.code, done.out) == (0, f"unix:{stopped_vm.qmp_socket}\n")
    assert "stopped" in done.err
    assert json.loads(snaptree("qmp", "dev", "--json").out) == {"qmp": f"unix:{stopped_vm.qmp_socket}"}


def test_a_running_vm_is_not_forgotten(supervised: Supervise, snaptree: Run) -> None:
    supervised({})
    done = snaptree("forget", "dev")
    assert done.code == 4
    assert "snaptree stop dev" in done.err


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def test_stop_returns_when_qemu_and_supervisor_are_gone(
    supervised: Supervise, snaptree: Run, process: subprocess.Popen[bytes]
) -> None:
    def quit(arguments: object) -> object:
        client.vanish()
        process.kill()
        raise QEMUGone("QEMU has ended before its answer came.")

    client = supervised({"query-vm": {**VM, "qemu_pid": process.pid, "supervisor_pid": process.pid}, "vm-stop": quit})
    done = snaptree("stop", "dev")
    assert (done.code, done.out, done.err) == (0, "stopped dev\n", "")
    assert snaptree("stop", "dev").code == 4


def test_stop_does_not_claim_what_did_not_happen(
    supervised: Supervise, snaptree: Run, process: subprocess.Popen[bytes]
) -> None:
    def quit(arguments: object) -> object:
        process.kill()
        return {}

    supervised({"query-vm": {**VM, "qemu_pid": process.pid, "supervisor_pid": process.pid}, "vm-stop": quit})
    done = snaptree("stop", "dev")
    assert (done.code, done.out) == (1, "")
    assert "still runs" in done.err


def test_no_vms_is_an_empty_array(snaptree: Run) -> None:
    assert json.loads(snaptree("vms", "--json").out) == []
    done = snaptree("vms")
    assert (done.code, done.out) == (0, "")


def test_show_without_a_snapshot_shows_the_vm_and_what_stands_for_its_placeholders(
    stopped_vm: VMPlace, snaptree: Run
) -> None:
    stopped_vm.command.write_text(
        json.dumps(
            {
                "argv": ["q", "-m", "1G", "-nic", "user,hostfwd=tcp::{port:ssh}-:22", "-S", "a b.qcow2"],
                "cwd": "/w",
                "memory": {"way": "pages", "wanted": "auto", "why": ""},
                "placeholders": {"port:ssh": 20417, "port:old": 1},
                "disks": [{"device": "vda", "node": "#b", "file": "/a.qcow2", "size": 1}],
            }
        )
    )
    told = json.loads(snaptree("show", "dev", "--json").out)
    assert (told["name"], told["state"], told["placeholders"]) == ("dev", "stopped", {"port:ssh": 20417})
    assert (told["cwd"], told["directory"]) == ("/w", str(stopped_vm.directory))
    lines = [line.strip() for line in snaptree("show", "dev").out.splitlines()]
    assert "placeholders  {port:ssh} = 20417" in lines
    assert lines[-4:] == ["command line  q", "-m 1G", "-nic 'user,hostfwd=tcp::{port:ssh}-:22'", "-S 'a b.qcow2'"]
