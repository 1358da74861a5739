"""Fixtures of all tests that run real QEMU.  Not for: what only one folder needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.framework.atrest import AtRest
from tests.framework.qemus import VERSIONS, find_qemu


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the VM at rest once with each QEMU version, or with those that its marker ``qemu`` names."""
    if "prepared" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("qemu")
        versions = marker.args if marker else VERSIONS
        ids = [f"qemu-{version}" for version in versions]
        metafunc.parametrize("prepared", versions, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest) -> Iterator[AtRest]:
    """One VM at rest for all tests of a module."""
    made = AtRest(find_qemu(request.param))
    yield made
    made.vm.clean_up()


@pytest.fixture
def dev(prepared: AtRest) -> AtRest:
    """The VM at rest, whole at the beginning of each test."""
    prepared.put_back()
    return prepared
