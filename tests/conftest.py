"""Fixtures of all tests: the QEMU matrix, and the VM factory.  Not for: what only one folder needs."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator

import pytest

from tests.framework.guests import Guest
from tests.framework.qemus import QEMU, VERSIONS, find_qemu
from tests.framework.vm import TestVM, VMFactory

__all__ = ["VMFactory"]  # a test names it next to its fixture

_VMS = pytest.StashKey[list[TestVM]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register what ``--strict-markers`` has to know, and set what every process inherits."""
    config.addinivalue_line("markers", 'qemu(*versions): the QEMU versions to run with ("7.2", "10"); without it, all')
    config.addinivalue_line("markers", "long: it takes many seconds, so it is begun first")
    # Each process that imports numpy has a thread beside it otherwise, which turns in a circle at first.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that needs QEMU once with each version."""
    if "qemu" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("qemu")
        versions = marker.args if marker else VERSIONS
        metafunc.parametrize("qemu", versions, ids=[f"qemu-{version}" for version in versions], indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each of xdist's workers begin with its part of the long tests, so that none is left over at the end.

    Each gets one piece of the list.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        part = long[worker::workers]
        room = max(0, (len(items) - len(ordered)) // (workers - worker) - len(part))
        ordered += [*part, *others[:room]]
        del others[:room]
    items[:] = [*ordered, *others]


def pytest_collection_finish() -> None:
    """Let no garbage collection look at all tests again; there are thousands, and they stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def qemu(request: pytest.FixtureRequest) -> QEMU:
    """One QEMU of the matrix; where it is missing the test fails."""
    try:
        return find_qemu(request.param)
    except LookupError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def vm_factory(qemu: QEMU, request: pytest.FixtureRequest) -> Iterator[VMFactory]:
    """Make VMs of one QEMU version."""
    vms: list[TestVM] = []
    request.node.stash[_VMS] = vms

    def make(
        name: str = "dev", *, guest: Guest = "firmware", disks: int = 2, disk_mib: int = 64, pace_ms: int = 100
    ) -> TestVM:
        vm = TestVM(qemu, name, guest=guest, disks=disks, disk_mib=disk_mib, pace_ms=pace_ms)
        vms.append(vm)
        return vm

    yield make
    failures = []
    for vm in vms:
        try:
            vm.clean_up()
        except Exception as error:  # the next one is cleaned up all the same
            failures.append(error)
    if failures:
        raise ExceptionGroup("a VM could not be cleaned up", failures)


@pytest.fixture
def kvm() -> None:
    """Skip the test, and say why, where there is no KVM: the one thing that not every machine has."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        pytest.skip(f"KVM cannot be used here: /dev/kvm: {error.strerror}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs of a failed test's VMs into its report, before they are removed."""
    report = yield
    if report.failed and call.when != "teardown":
        for vm in item.stash.get(_VMS, []):
            report.sections += [(f"{vm.name}: {name}", text) for name, text in vm.logs().items()]
    return report
