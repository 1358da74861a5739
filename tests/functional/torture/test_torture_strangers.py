"""Names, tags, sockets and folders that come from others: never printed raw, never believed, never followed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import VMFactory
from tests.framework.atrest import FULL, AtRest
from tests.framework.vm import TestVM

from snaptree.cli.commands import COMMANDS
from snaptree.cli.main import main

pytestmark = pytest.mark.qemu("10")

NOBODY = 65534
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
EVIL = (
    "../../etc/passwd",
    "a/b",
    "new\nline",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\u202eb",
    "tab\tbed",
    "\r over",
    "-",
    ".",
    "..",
    "",
    " ",
    "x" * 300,
    "{vm}",
    "%n%s",
    "null",
    "12",
    "\udcff\udc80",
)
TAKE_NAMES = {
    **dict.fromkeys(("create", "load", "delete", "show", "resume"), ("{vm}", "{name}")),
    "rename": ("{vm}", "full", "{name}"),
    "adopt": ("{vm}", "{name}", "--as", "{name}"),
    "describe": ("{vm}", "{name}", "text"),
    "fork": ("{vm}", "{name}", "{name}"),
    "diff": ("{vm}", "{name}", "{name}"),
    "each": ("{vm}", "{name}", "--", "true"),
    "bisect": ("{vm}", "{name}", "{name}", "--", "true"),
    "attach": ("{name}", "--qmp", "{name}"),
    "run": ("{name}", "--", "{name}"),
    **dict.fromkeys(("status", "list", "tree", "log", "check", "repair", "stop", "forget", "qmp", "undo"), ("{name}",)),
    "completion": ("{name}",),
    "help": ("{name}",),
    "vms": ("{name}",),
    "doctor": ("{name}",),
}


def said(vm: TestVM, *words: str) -> tuple[int, str]:
    """Run a command with any words; return its exit code and all that it printed."""
    argv = [os.fsencode(word) for word in (sys.executable, "-m", "snaptree", *words)]
    done = subprocess.run(argv, env=vm.env, cwd=vm.root, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8")


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) - set(TAKE_NAMES) <= {"web"}


@pytest.mark.parametrize("command", sorted(TAKE_NAMES))
def test_no_name_makes_a_command_print_a_control_character_or_fail_where_it_should_not(
    prepared: AtRest, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    vm = prepared.vm
    for name in ("SNAPTREE_HOME", "XDG_RUNTIME_DIR", "HOME", "PATH", "NO_COLOR"):
        monkeypatch.setenv(name, vm.env[name])
    monkeypatch.chdir(vm.root)
    before = _folders(vm)
    for evil in EVIL:
        for options in ((), ("--json",)):
            if options and command in ("run", "completion", "help"):
                continue
            words = [word.replace("{vm}", "dev").replace("{name}", evil) for word in TAKE_NAMES[command]]
            code = main([command, *options, *words])
            done = capfd.readouterr()
            text = done.out + done.err
            assert code in (0, 1, 2, 3, 4, 5), (words, text)
            assert CONTROL.search(text) is None, (words, text)
            assert "where it should not" not in text, (words, text)
            assert "Traceback" not in text, (words, text)
    assert _folders(vm) == before


def _folders(vm: TestVM) -> list[Path]:
    """Return every folder: a name that was taken for a path would make one."""
    return sorted(path for path in vm.root.rglob("*") if path.is_dir())


def test_tags_in_images_are_never_printed_raw(dev: AtRest) -> None:
    tags = ["ev\x1b[31mil\nsecond", "a\u202eb", "\x1b]0;t\x07", "\x9b2J", "x" * 255]
    for tag in tags:
        for image in (dev.a, dev.b):
            dev.img("-c", tag, str(image))
    vm = dev.vm
    for words in (
        ("list", "--foreign", "dev"),
        ("list", "--foreign", "--json", "dev"),
        ("tree", "dev"),
        ("check", "dev"),
        ("check", "--json", "dev"),
        ("check", "--disk", str(dev.a), "--disk", str(dev.b)),
        ("repair", "dev"),
        ("show", "dev", FULL),
        *(("adopt", "dev", tag, "--as", "ok") for tag in tags[:1]),
    ):
        _, text = said(vm, *words)
        assert CONTROL.search(text) is None, (words, text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a socket that is another user's")
def test_a_socket_of_another_user_is_not_believed(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.run(memory_mib=32)
    path = vm.runtime / "snaptree" / "dev" / "qmp.sock"
    path.unlink()
    # Another user's server, which would tell us anything.
    program = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "os.chmod(sys.argv[1], 0o666); os.setuid(int(sys.argv[2])); print('up', flush=True)\n"
        'while True:\n    c, _ = s.accept(); c.sendall(b\'{"QMP": {"version": {}, "capabilities": []}}\\r\\n\')\n'
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(NOBODY)], stdout=subprocess.PIPE, env=vm.env, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        done = vm.cli("list", "dev", check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode != 0 or done.stdout.startswith("no snapshots"), done
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("what", ["link", "file", "foreign"])
def test_a_runtime_folder_that_is_not_ours_is_refused_by_name(vm_factory: VMFactory, what: str) -> None:
    vm = vm_factory()
    folder = vm.runtime / "snaptree"
    elsewhere = vm.root / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if what == "link":
        folder.symlink_to(elsewhere)
    elif what == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    done = vm.cli("run", "--detach", "dev", "--", *vm.qemu_args(), check=False)
    assert done.returncode in (1, 4), done
    assert str(folder) in done.stderr, done.stderr
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_place_of_the_vms_socket_folder_is_not_followed(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    elsewhere = vm.root / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (vm.runtime / "snaptree").mkdir(mode=0o700)
    (vm.runtime / "snaptree" / "dev").symlink_to(elsewhere)
    done = vm.cli("run", "--detach", "dev", "--", *vm.qemu_args(), check=False)
    assert done.returncode in (1, 4), done
    assert "snaptree/dev" in done.stderr
    assert list(elsewhere.iterdir()) == []


def test_loose_permissions_of_the_home_are_made_strict(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    (vm.home / "vms").mkdir(parents=True)
    for folder in (vm.home, vm.home / "vms"):
        folder.chmod(0o777)
    doctor = vm.cli("doctor", check=False)
    assert str(vm.home) in doctor.stdout
    vm.run()
    modes = {path: path.lstat().st_mode & 0o077 for path in vm.home.rglob("*")}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode} == {}


def test_a_home_of_another_user_is_refused_by_name(vm_factory: VMFactory) -> None:
    vm = vm_factory()
    vm.home.mkdir()
    os.chown(vm.home, NOBODY, NOBODY)
    done = vm.cli("run", "--detach", "dev", "--", *vm.qemu_args(), check=False)
    assert done.returncode in (1, 4), done
    assert str(vm.home) in done.stderr
