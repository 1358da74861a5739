"""The examples of the wiki page typed into qmp-shell, which nobody here wrote, and read back."""

from __future__ import annotations

import json
import re

from tests.conftest import VMFactory
from tests.functional.qmp.serving import served
from tests.functional.qmp.shells import PROMPT, asked, at_a_terminal, told, typed

OK: dict[str, object] = {"return": {}}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BOTH_FORMS = "Error: {0} wants to know what you mean.{1} {0} tag={2} or {0} id=ID"


def test_qmp_shell_takes_the_commands_of_the_page(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm):
        answers = asked(
            vm,
            "query-snapshot-status",
            "snapshot-create name=vm_before_upgrade",
            "snapshot-create name=vm_before_upgrade",
            "snapshot-create",
            "snapshot-create name=vm_before_upgrade-2",
            "snapshot-load name=vm_before_upgrade",
            "snapshot-load name=random",
            "snapshot-load",
            "query-snapshots",
            "query-snapshots tree=true",
            "query-current-snapshot",
            "snapshot-delete name=vm_before_upgrade-2",
            "snapshot-delete name=vm_before_upgrade-2",
            "snapshot-delete",
            "query-snapshots",
        )
        assert answers[0] == {"return": True}
        assert answers[1] == answers[4] == answers[5] == answers[11] == OK
        assert answers[2]["error"]["code"] == "name-taken"
        assert answers[3]["error"]["desc"] == "Parameter 'name' is missing"
        assert answers[6]["error"]["code"] == answers[12]["error"]["code"] == "no-such-snapshot"
        assert answers[7]["error"]["code"] == answers[13]["error"]["code"] == "usage"
        one, two = answers[8]["return"]
        assert (one["name"], one["parent_name"], one["parent_id"].strip("0-")) == ("vm_before_upgrade", "", "")
        assert (two["name"], two["parent_name"], two["parent_id"]) == ("vm_before_upgrade-2", one["name"], one["id"])
        assert re.fullmatch(r"20[0-9]{12}", str(one["date"]))
        (root,) = answers[9]["return"]
        assert [child["name"] for child in root["children"]] == ["vm_before_upgrade-2"]
        assert answers[10]["return"]["name"] == "vm_before_upgrade"
        assert [snapshot["name"] for snapshot in answers[14]["return"]] == ["vm_before_upgrade"]


def test_qmp_shell_finds_a_snapshot_by_id_and_says_why_not(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        (a,) = client.execute("query-snapshots")
        answers = asked(
            vm,
            f"snapshot-load id={a['id']}",
            f"snapshot-rename id={a['id']} new-name=b",
            "query-snapshot name=b",
            "query-snapshot-status reasons=true",
            "query-snapshot-history limit=2",
            "snapshot-create name=2",
            "snapshot-save job-id=j tag=t vmstate=n devices=['n']",
        )
        assert answers[0] == answers[1] == OK
        assert answers[2]["return"]["id"] == a["id"]
        assert answers[3]["return"] == {"ready": True, "reasons": [], "advice": []}
        assert [entry["action"] for entry in answers[4]["return"]] == ["load", "rename"]
        # qmp-shell makes a number of it, so no name may be one.
        assert answers[5]["error"]["desc"] == "Invalid parameter type for 'name', expected: string"
        assert answers[6]["error"]["code"] == "refused"


def test_qmp_shell_prints_prettily_what_it_gets(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm):
        created, listed, status = typed(
            vm, ["snapshot-create name=a", "query-snapshots", "query-snapshot-status"], "-p"
        )
        assert json.loads(created) == OK
        assert listed.startswith('{\n    "return": [\n')
        assert json.loads(listed)["return"][0]["name"] == "a"
        assert json.loads(status) == {"return": True}


def test_the_monitor_takes_a_tag_or_an_id_and_says_which_it_wants(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm):
        texts = told(
            vm,
            "info snapshots",
            "savevm 2",
            "savevm",
            "savevm xxx",
            "loadvm id=3",
            "loadvm tag=xxx",
            "loadvm xxx",
            "loadvm 3",
            "loadvm",
            "load_vm id=3",
            "delvm xxx",
            "delvm tag=nosuch",
            "info snapshots",
        )
        assert texts[0].splitlines()[1] == "There is no snapshot; savevm NAME takes one."
        assert texts[1].startswith('Error: The name "2" is a number, and could be taken for an id.')
        assert texts[2] == "Error: savevm takes one new name: savevm NAME"
        assert texts[3] == ""
        assert texts[4].startswith('Error: The id prefix "3" is too short.')
        assert texts[5] == ""
        assert texts[6] == BOTH_FORMS.format("loadvm", ' "xxx" could be either:', "xxx")
        assert texts[7] == BOTH_FORMS.format("loadvm", ' "3" could be either:', "3")
        assert texts[8] == BOTH_FORMS.format("loadvm", "", "NAME")
        assert texts[9] == "unknown command: 'load_vm'"
        assert texts[10] == BOTH_FORMS.format("delvm", ' "xxx" could be either:', "xxx")
        assert texts[11].startswith('Error: There is no snapshot "nosuch"')
        (row,) = [line for line in texts[12].splitlines() if " xxx " in line]
        assert row.startswith("* ")


def test_the_monitor_never_overwrites_neither_by_number_nor_by_tag(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm):
        before, second, after = (
            told(vm, "savevm test1", "savevm test2", "info snapshots"),
            told(vm, "savevm test1", "savevm 1", "savevm 2"),
            told(vm, "info snapshots"),
        )
        assert before[:2] == ["", ""]
        assert second[0].startswith('Error: There is a snapshot "test1" already.')
        assert all("is a number" in text for text in second[1:])
        assert after == before[2:]


def test_the_monitor_shows_that_e_was_saved_right_after_b(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with served(vm):
        lines = ["savevm a", "savevm b", "savevm c", "savevm d", "loadvm tag=b", "savevm e", "info snapshots"]
        *texts, listed = told(vm, *lines)
        assert texts == [""] * 6
        head, columns, *rows = listed.splitlines()
        assert head == "Snapshots of dev, devices: virtio0, virtio1"
        assert columns.split() == ["TAG", "ID", "PARENT", "DATE", "(UTC)", "VM", "CLOCK", "VM", "SIZE", "DEVICES"]
        cells = [row.replace("*", " ").split() for row in rows]
        assert [(cell[0], cell[2]) for cell in cells] == [("a", "-"), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "b")]
        assert [row.startswith("*") for row in rows] == [False] * 4 + [True]
        assert all(UUID.fullmatch(cell[1]) and cell[-1] == "all" for cell in cells)
        # Aligned: every column begins where its head does.
        for title, place in ((name, columns.index(name)) for name in ("TAG", "ID", "PARENT", "DATE", "DEVICES")):
            assert all(row[place] != " " and row[place - 1] == " " for row in rows), title


def test_the_monitor_finds_by_id_deletes_and_passes_all_else(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm) as own, vm.qmp() as client:
        client.execute("snapshot-create", {"name": "a"})
        client.execute("snapshot-create", {"name": "b"})
        a, b = (snapshot["id"] for snapshot in client.execute("query-snapshots"))
        loaded, deleted, version, printed, unknown = told(
            vm, f"loadvm id={a[:8]}", f"delvm id={b}", "info version", "print 6*7", "nonsense"
        )
        assert (loaded, deleted) == ("", "")
        assert [snapshot["name"] for snapshot in client.execute("query-snapshots")] == ["a"]
        for line, text in (("info version", version), ("print 6*7", printed), ("nonsense", unknown)):
            assert text == own.hmp(line).replace("\r\n", "\n").strip()


def test_tab_completes_our_commands_at_a_terminal(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), at_a_terminal(vm) as terminal:
        terminal.type("snapshot-cr\t", "snapshot-create")
        assert '{"return": {}}' in terminal.type(" name=from-a-terminal\n", PROMPT)
        terminal.type("query-current-s\t", "query-current-snapshot")
        assert '"name": "from-a-terminal"' in terminal.type("\n", PROMPT)


def test_a_monitor_at_a_terminal_completes_and_keeps_our_meaning(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    with served(vm), at_a_terminal(vm, "-H") as terminal:
        terminal.type("savev\t", "savevm")
        assert "Error" not in terminal.type(" x\n", PROMPT)
        assert "loadvm tag=x or loadvm id=ID" in terminal.type("loadvm x\n", PROMPT)
        terminal.type("info snap\t", "info snapshots")
        assert "Snapshots of dev" in terminal.type("\n", PROMPT)
