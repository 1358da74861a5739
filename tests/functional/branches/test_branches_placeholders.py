"""A command line with placeholders runs on real QEMU, and its values stay over restarts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from tests.conftest import VMFactory

NETWORK = (
    "-netdev",
    "user,id=n,hostfwd=tcp:127.0.0.1:{port:ssh}-:22",
    "-device",
    "virtio-net-pci,netdev=n,mac={mac:n}",
)
PLACES = (
    "-vnc",
    "unix:{dir}/vnc.sock",
    "-chardev",
    "file,id=c,path={dir}/{{vm}}.log",
    "-pidfile",
    "{dir}/pid",
    "-name",
    "{vm}",
)
JSON = ("-object", '{"qom-type":"rng-random","id":"{vm}-rng","filename":"/dev/urandom"}')


def test_every_placeholder_has_its_value_in_qemu_and_keeps_it_over_a_restart(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    vm.run(*NETWORK, *PLACES, *JSON)
    told = vm.cli_json("show", vm.name)
    values = told["placeholders"]
    assert set(values) == {"port:ssh", "mac:n", "dir", "vm"}
    monitor = vm.qmp()
    assert f"127.0.0.1 {values['port:ssh']}" in " ".join(monitor.hmp("info usernet").split())
    assert values["mac:n"] in monitor.hmp("info network")
    assert stat.S_ISSOCK((Path(values["dir"]) / "vnc.sock").stat().st_mode)
    assert monitor.execute("query-name")["name"] == vm.name
    assert (Path(values["dir"]) / "{vm}.log").exists()
    assert "dev-rng" in {item["name"] for item in monitor.execute("qom-list", {"path": "/objects"})}
    monitor.close()
    vm.cli("stop", vm.name)
    assert vm.cli_json("show", vm.name)["placeholders"] == values
    vm.run(*NETWORK, *PLACES, *JSON)
    assert vm.cli_json("show", vm.name)["placeholders"] == values


@pytest.mark.qemu("10")
def test_a_mistyped_placeholder_is_refused_and_makes_no_vm(vm_factory: VMFactory) -> None:
    vm = vm_factory(disks=1)
    done = vm.cli("run", "--detach", vm.name, "--", *vm.qemu_args("-name", "{prot:ssh}"), check=False)
    assert done.returncode == 2
    assert "{port:NAME}" in done.stderr
    assert vm.cli_json("vms") == []
