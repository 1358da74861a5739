"""Values are chosen once, kept, and no two VMs of a home have the same."""

from __future__ import annotations

import json
import re
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snaptree.model.errors import SnaptreeError, UsageError
from snaptree.places.places import Places, VMPlace
from snaptree.qemu import fillings
from snaptree.qemu.fillings import fill_for, is_free, read_values

ARGV = ["q", "tcp::{port:ssh}-:22", "{port:web}", "{mac:n}", "{mac:m}", "{cid}", "{vm}"]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "home", tmp_path / "run")


def made(places: Places, name: str = "dev") -> VMPlace:
    place = places.vm(name)
    place.make()
    return place


def test_a_command_line_without_placeholders_writes_nothing(places: Places) -> None:
    place = made(places)
    filled = fill_for(place, ["q", "-m", "1G"])
    assert (filled.argv, filled.values, filled.notes) == (("q", "-m", "1G"), {}, ())
    assert list(place.directory.iterdir()) == []


def test_values_have_the_right_form(places: Places) -> None:
    filled = fill_for(made(places), ARGV)
    values = filled.values
    assert values["vm"] == "dev"
    for name in ("port:ssh", "port:web"):
        assert isinstance(values[name], int)
        assert 1024 <= int(values[name]) < 1 << 16
    for name in ("mac:n", "mac:m"):
        assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", str(values[name]))
    assert 3 <= int(values["cid"]) < 1 << 32
    assert len(set(values.values())) == len(values)
    assert filled.argv[1] == f"tcp::{values['port:ssh']}-:22"
    assert not any("{" in word for word in filled.argv)


def test_values_are_kept_over_restarts_whatever_else_the_file_says(places: Places) -> None:
    place = made(places)
    first = fill_for(place, ARGV)
    place.command.write_text(json.dumps({"argv": ["x"], "placeholders": first.values}))
    assert fill_for(place, ARGV) == first
    assert json.loads(place.command.read_text())["argv"] == ["x"]


def test_a_new_placeholder_leaves_the_others_as_they_are(places: Places) -> None:
    place = made(places)
    first = fill_for(place, ["{port:ssh}"])
    second = fill_for(place, ["{port:ssh}", "{port:new}"])
    assert second.values["port:ssh"] == first.values["port:ssh"]
    assert read_values(place) == second.values


def test_a_port_that_is_taken_is_chosen_anew_and_a_note_says_so(places: Places) -> None:
    place = made(places)
    port = int(fill_for(place, ["{port:ssh}"]).values["port:ssh"])
    with socket.create_server(("127.0.0.1", port)):
        filled = fill_for(place, ["{port:ssh}"])
    assert filled.values["port:ssh"] != port
    assert str(port) in filled.notes[0]
    assert str(filled.values["port:ssh"]) in filled.notes[0]
    assert fill_for(place, ["{port:ssh}"]) == fillings.Filled((str(filled.values["port:ssh"]),), filled.values)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "127.0.0.2"])
def test_a_port_is_free_only_where_nobody_serves_on_any_address(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        assert not is_free(server.getsockname()[1])
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        assert not is_free(server.getsockname()[1])


def test_what_remains_of_an_ended_connection_does_not_take_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = server.accept()
        served.close()  # first: so TIME_WAIT stays on the server's side
        assert client.recv(1) == b""
        client.close()
    assert is_free(port)


def test_vms_of_a_home_never_have_the_same(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each value is drawn twice in a row, so that two VMs would have it.
    numbers, last_bytes = iter(n // 2 for n in range(9999)), iter(n // 2 for n in range(512))
    monkeypatch.setattr(fillings, "_below", lambda end: next(numbers) % end)
    monkeypatch.setattr(fillings, "_random", lambda _: bytes([0, 0, next(last_bytes)]))
    chosen = [fill_for(made(places, f"vm-{i}"), ["{port:a}", "{mac:a}", "{cid}"]).values for i in range(5)]
    values = [value for each in chosen for value in each.values()]
    assert len(set(values)) == len(values) == 15


def test_vms_that_start_at_the_same_time_never_have_the_same(places: Places) -> None:
    made_places = [made(places, f"vm-{i}") for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda place: fill_for(place, ["{port:a}", "{port:b}", "{cid}"]).values, made_places))
    values = [value for each in chosen for value in each.values()]
    assert len(set(values)) == len(values) == 24


def test_the_directory_is_private_short_and_outlives_a_reboot(places: Places) -> None:
    place = made(places)
    directory = Path(fill_for(place, ["{dir}"]).argv[0])
    assert directory == place.runtime / "dir"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (directory / "serial.log").write_text("hello")
    (place.runtime / "dir").unlink()  # as a reboot empties the runtime directory
    assert (Path(fill_for(place, ["{dir}"]).argv[0]) / "serial.log").read_text() == "hello"
    assert fill_for(place, ["{dir}"]).argv == (str(directory),)


@pytest.mark.parametrize("name", ["a,b", "a b", "a:b", 'a"b'])
def test_a_directory_that_options_would_split_at_is_refused(tmp_path: Path, name: str) -> None:
    place = Places(tmp_path / "home", tmp_path / "r").vm("dev")
    place.make()
    odd = VMPlace("dev", place.directory, tmp_path / name)
    with pytest.raises(SnaptreeError, match="XDG_RUNTIME_DIR"):
        fill_for(odd, ["{dir}"])


def test_a_wrong_placeholder_changes_nothing(places: Places) -> None:
    place = made(places)
    with pytest.raises(UsageError):
        fill_for(place, ["{port:a}", "{prot:b}"])
    assert list(place.directory.iterdir()) == []
