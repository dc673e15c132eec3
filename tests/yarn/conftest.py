"""The ground of a rehearsal, started once for all tests in this folder."""

import os
from collections.abc import Iterator

import pytest

from rehearsal.ground import Ground, start_ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """YARN with two nodes, AWS, a bucket and a cluster; faults are the business of each test."""
    with start_ground(tmp_path_factory.mktemp("ground")) as running, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running
