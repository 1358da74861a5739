import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from snaptree.model.errors import NoSuchVM, SnaptreeError
from snaptree.places.files import private_directory, read_json, write_json
from snaptree.places.lock import SupervisorLock, holder, is_held
from snaptree.places.places import Places, Running, check_socket_path
from snaptree.places.process import identify


def places(tmp_path: Path) -> Places:
    return Places.from_environ({"SNAPTREE_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)})


def test_the_environment_says_where_things_lie(tmp_path: Path) -> None:
    found = Places.from_environ({"SNAPTREE_HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)})
    assert found == Places(Path("/h"), tmp_path / "snaptree")
    assert Places.from_environ({"XDG_STATE_HOME": "/s"}) == Places(Path("/s/snaptree"), Path("/s/snaptree/run"))


def test_directories_are_private_also_where_they_were_not(tmp_path: Path) -> None:
    place = places(tmp_path).vm("dev")
    place.directory.mkdir(parents=True, mode=0o755)
    place.make()
    for directory in (place.directory, place.directory.parent, place.runtime, place.runtime.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_link_is_never_taken_for_a_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnaptreeError, match="no directory"):
        private_directory(tmp_path / "link")


def test_a_vm_exists_when_its_folder_does(tmp_path: Path) -> None:
    here = places(tmp_path)
    with pytest.raises(NoSuchVM):
        here.existing_vm("dev")
    here.vm("dev").make()
    assert here.vm_names() == ["dev"]
    with pytest.raises(NoSuchVM, match="Did you mean dev"):
        here.existing_vm("dew")
    here.existing_vm("dev").remove()
    assert here.vm_names() == []


def test_a_socket_path_that_cannot_be_bound_or_named_is_refused_by_name() -> None:
    check_socket_path(Path("/" + "x" * 106))
    for bad in ("/" + "x" * 107, "/a:b"):
        with pytest.raises(SnaptreeError, match="socket's path"):
            check_socket_path(Path(bad))


def test_a_command_and_a_supervisor_exclude_each_other_and_the_lock_says_which_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    for kind in ("command", "supervisor"):
        lock = SupervisorLock.take(path, kind)
        assert lock is not None
        assert holder(path) == kind
        assert SupervisorLock.take(path, "command") is None
        assert SupervisorLock.take(path) is None
        lock.release()
        assert holder(path) is None


def test_the_lock_is_held_by_one_and_asked_for_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    lock = SupervisorLock.take(path)
    assert lock is not None
    assert is_held(path)
    assert SupervisorLock.take(path) is None
    lock.release()
    assert not is_held(path)


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from snaptree.places.lock import SupervisorLock;"
        "lock = SupervisorLock.take(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
    finally:
        holder.kill()
        holder.communicate()
    assert not is_held(path)


def test_a_pid_alone_does_not_name_a_process(tmp_path: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.alive()
    place = places(tmp_path).vm("dev")
    place.make()
    place.write_running(Running(me, "unix:/q", "/s", 1, False))
    assert place.running() == Running(me, "unix:/q", "/s", 1, False)
    assert place.state().state == "unsupervised"
    other = type(me)(me.pid, me.start + 1, me.boot)
    place.write_running(Running(other, "unix:/q", "/s", 1, False))
    assert place.state().state == "stopped"


def test_a_small_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": "\udc80"})
    assert read_json(path) == {"a": "\udc80"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": "\udc80"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
