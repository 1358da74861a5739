"""Bad input: each is refused with a sentence, a remedy and the right exit code, and changes nothing."""

from __future__ import annotations

from tests.conftest import VMFactory
from tests.framework.qmp import QMPClient
from tests.framework.vm import TestVM
from tests.functional.main.patterns import contents, write
from tests.functional.main.untouched import fails, fails_json, untouched
from tests.functional.traps.safety import bare, refusal, under_care

UNKNOWN_ID = "3fab28c9-a6bd-4659-b9bc-683780d8a2d5"

NUMBERS = ["1", "007", "1_000", "1e5", "0x10", "1.5", "inf", "NaN", "Infinity"]
JSON_WORDS = ["true", "False", "NULL"]
IDS = [UNKNOWN_ID, UNKNOWN_ID.upper(), UNKNOWN_ID.replace("-", "")]
ODD = ["", "x" * 129, "a b", "ä", ".x", "_x", "a/b", "a@b", "a^b", "a\n", "\U0001f600", "a=b", "\x1b[31mred"]


def with_one_snapshot(vm: TestVM, client: QMPClient) -> str:
    """Take a snapshot "s", go on, and return its id."""
    write(client, 1)
    client.execute("snapshot-create", {"name": "s", "description": "first"})
    write(client, 2)
    contents(vm, client)  # writes back what QEMU holds
    return str(client.execute("query-snapshot", {"name": "s"})["id"])


def test_a_bad_name_is_refused_by_create_and_rename_and_says_what_is_right(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with_one_snapshot(vm, client)
        with untouched(vm, client):
            for names, why in (
                (NUMBERS, "is a number"),
                (JSON_WORDS, "is a word of JSON"),
                (IDS, "has the form of an id"),
                (ODD, "1 to 128 letters"),
            ):
                assert why in fails(vm, "create", vm.name, names[-1], code=2)
                assert fails_json(vm, "rename", vm.name, "s", names[-1], code=2)["code"] == "bad-name"
                for name in names:
                    error = refusal(client, "snapshot-create", {"name": name})
                    assert (error["code"], why in error["desc"]) == ("bad-name", True), name
                    assert refusal(client, "snapshot-rename", {"name": "s", "new-name": name})["code"] == "bad-name"
            fails(vm, "create", vm.name, "-x", code=2)
            assert "no UTF-8" in fails(vm, "create", vm.name, "a\udcff", code=2)


def test_a_taken_name_is_refused_by_create_and_rename(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with_one_snapshot(vm, client)
        client.execute("snapshot-create", {"name": "t"})
        contents(vm, client)
        with untouched(vm, client):
            assert 'There is a snapshot "s" already' in fails(vm, "create", vm.name, "s", code=4)
            assert 'There is a snapshot "s" already' in fails(vm, "rename", vm.name, "t", "s", code=4)
            assert fails_json(vm, "create", vm.name, "s", code=4)["code"] == "name-taken"
            assert fails_json(vm, "rename", vm.name, "t", "s", code=4)["code"] == "name-taken"


def test_an_unknown_snapshot_is_named_and_a_near_one_offered(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        client.execute("snapshot-create", {"name": "before-upgrade"})
        with untouched(vm, client):
            for command in ("load", "delete", "show"):
                said = fails(vm, command, vm.name, "before-upgrad", code=3)
                assert 'There is no snapshot "before-upgrad"' in said
                assert "Did you mean before-upgrade?" in said
                assert fails_json(vm, command, vm.name, "--id", UNKNOWN_ID, code=3)["code"] == "no-such-snapshot"
            for command in ("rename", "describe"):
                assert fails_json(vm, command, vm.name, "other", "new", code=3)["code"] == "no-such-snapshot"
            assert "\x1b" not in fails(vm, "load", "--discard", vm.name, "\x1b[31m", code=3)


def test_an_id_that_is_none_too_short_or_given_beside_a_name_is_a_matter_of_usage(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        id = with_one_snapshot(vm, client)
        with untouched(vm, client):
            assert "at least 8" in fails(vm, "load", "--discard", vm.name, "--id", id[:7], code=2)
            assert "at least 8" in fails(vm, "delete", vm.name, "--id", id[:7], code=2)
            assert "no id" in fails(vm, "load", "--discard", vm.name, "--id", "before-upgrade", code=2)
            assert fails_json(vm, "load", "--discard", vm.name, "--id", "", code=2)["code"] == "usage"
            assert fails_json(vm, "load", "--discard", vm.name, "s", "--id", id, code=2)["code"] == "usage"
            assert fails_json(vm, "load", "--discard", vm.name, code=2)["code"] == "usage"
            assert fails_json(vm, "delete", vm.name, code=2)["code"] == "usage"
            assert fails_json(vm, "delete", vm.name, "s", "--chil", code=2)["code"] == "usage"
            assert fails_json(vm, "create", vm.name, code=2)["code"] == "usage"


def test_a_prefix_of_two_ids_is_refused_with_both_named(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    # The supervisor's Python makes ids that all begin alike.
    (vm.root / "sitecustomize.py").write_text(
        "import uuid\nrandom = uuid.uuid4\nuuid.uuid4 = lambda: uuid.UUID('3fab28c9' + random().hex[8:])\n"
    )
    vm.env["PYTHONPATH"] = str(vm.root)
    with under_care(vm, bare(vm)), vm.qmp() as client:
        for name in ("one", "two"):
            client.execute("snapshot-create", {"name": name})
        ids = [snapshot["id"] for snapshot in client.execute("query-snapshots")]
        assert {id[:8] for id in ids} == {"3fab28c9"}
        with untouched(vm, client):
            for command in ("load", "delete", "show"):
                said = fails(vm, command, vm.name, "--id", "3fab28c9", code=2)
                assert all(id in said for id in ids)
                assert fails_json(vm, command, vm.name, "--id", "3fab28c9", code=2)["code"] == "ambiguous-id"
        assert vm.cli_json("show", vm.name, "--id", ids[0])["name"] == "one"


def test_a_description_that_is_too_long_or_no_text_is_refused(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with_one_snapshot(vm, client)
        with untouched(vm, client):
            assert "4097 characters" in fails(vm, "create", vm.name, "t", "-m", "x" * 4097, code=2)
            assert fails_json(vm, "describe", vm.name, "s", "x" * 4097, code=2)["code"] == "usage"
            assert "no UTF-8" in fails(vm, "describe", vm.name, "s", "a\udcff", code=2)
    assert "no UTF-8" in fails(vm, "describe", vm.name, "s", "a\udcff", code=2)
    assert vm.cli_json("show", vm.name, "s")["description"] == "first"


def test_a_bad_or_unknown_vm_name_makes_nothing(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    for name in ("", "Dev", "..", "a/b", "x" * 64, "\x1b[31m", "a\udcff"):
        assert "cannot be a VM's name" in fails(vm, "run", "--detach", name, "--", *bare(vm), code=2)
    assert fails_json(vm, "list", "Dev", code=2)["code"] == "bad-name"
    assert fails_json(vm, "run", "--detach", "Dev", code=2)["code"] == "bad-name"
    for command in ("status", "list", "stop", "forget", "qmp"):
        assert fails_json(vm, command, "nobody", code=3)["code"] == "no-such-vm"
    for command in ("create", "load"):
        assert "There is no VM" in fails(vm, command, "nobody", "s", code=3)
    assert vm.cli_json("vms") == []
    assert not vm.home.exists()


def test_a_stopped_vm_cannot_be_stopped(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    with under_care(vm, bare(vm)), vm.qmp() as client:
        with_one_snapshot(vm, client)
    assert "does not run" in fails(vm, "stop", vm.name, code=4)
    assert fails_json(vm, "stop", vm.name, code=4)["code"] == "vm-not-running"
    assert [snapshot["name"] for snapshot in vm.cli_json("list", vm.name)] == ["s"]


def test_an_unknown_command_or_option_is_a_matter_of_usage(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    fails(vm, "snapshot", "dev", code=2)
    fails(vm, "list", "dev", "--everything", code=2)
    fails(vm, code=2)
    assert fails_json(vm, "list", code=2)["code"] == "usage"
