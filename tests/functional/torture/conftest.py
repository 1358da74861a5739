"""One VM at rest for all tests of this folder, whole at the beginning of each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.framework.atrest import AtRest
from tests.framework.qemus import VERSIONS, find_qemu

CHOSEN = VERSIONS if "SNAPTREE_TORTURE" in os.environ else VERSIONS[-1:]
"""All in the long form (`make torture`)."""


@pytest.fixture(scope="module", params=CHOSEN, ids=[f"qemu-{version}" for version in CHOSEN])
def prepared(request: pytest.FixtureRequest) -> Iterator[AtRest]:
    made = AtRest(find_qemu(request.param))
    yield made
    made.vm.clean_up()


@pytest.fixture
def dev(prepared: AtRest) -> AtRest:
    prepared.put_back()
    return prepared
