"""The rehearsal environment, started once for all tests in this folder."""

import os
from collections.abc import Iterator

import pytest

from rehearsal.environment import RehearsalEnvironment, start_environment


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsalEnvironment]:
    """YARN with two nodes, AWS, a bucket and a cluster. A test removes the faults that it injects."""
    with (
        start_environment(tmp_path_factory.mktemp("rehearsal")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in running.variables().items():
            patch.setenv(name, value)
        yield running
