"""Platforms that the tests of the assets share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform
from tests.support import numbered_samples, publish_extractor


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
