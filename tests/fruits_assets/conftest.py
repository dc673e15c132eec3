"""Platforms that the tests of the assets share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests import shell as shells
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform
from tests.shell import Shell
from tests.support import numbered_samples, publish_extractor, wait_for


@pytest.fixture(scope="session")
def finished_folder(spark: SparkSession, extractor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a platform on which every class is observed and materialized. Tests use copies."""
    folder = tmp_path_factory.mktemp("finished")
    for label in numbered_samples(folder / "photos", IMAGES):
        if label not in CLASSES:
            shutil.rmtree(folder / "photos" / label)
    publish_extractor(str(folder / "store"), extractor)
    platform = Platform(folder)
    assert platform.observe().success
    assert platform.run_everything().success
    platform.close()
    return folder


@pytest.fixture(scope="session")
def finished(finished_folder: Path) -> Iterator[Platform]:
    """The finished platform itself, which a test may not change."""
    platform = Platform(finished_folder)
    yield platform
    platform.close()


@pytest.fixture
def platform(finished_folder: Path, tmp_path: Path) -> Iterator[Platform]:
    """A copy of the finished platform, which the test may change."""
    copy = Platform(shutil.copytree(finished_folder, tmp_path / "platform"))
    yield copy
    copy.close()


@pytest.fixture
def untouched(spark: SparkSession, extractor: Path, tmp_path: Path) -> Iterator[Platform]:
    """A platform without any run. Its store has the extractor, so that no test waits for a conversion."""
    publish_extractor(str(tmp_path / "store"), extractor)
    platform = Platform(tmp_path)
    yield platform
    platform.close()


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a first `fruits run`, on sample photos. Tests copy the folder."""
    folder = tmp_path_factory.mktemp("user")
    shell = Shell(folder)
    shell.run("fruits", "samples", str(shell.photos), "--images", str(shells.IMAGES))
    output = shell.run("fruits", "run")
    # Spark's JVM closes its event log a moment after the command has ended.
    wait_for(lambda: not list(shell.store.glob("spark-events/*.inprogress")))
    return folder, output


@pytest.fixture
def shell(first_run: tuple[Path, str], tmp_path: Path) -> Shell:
    """A shell in a copy of the folder after the first run."""
    return Shell(shutil.copytree(first_run[0], tmp_path / "user"))
