"""Platforms that the tests of the assets share."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from fruits_assets import disk_errors, free_space
from tests import shell as shells
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform
from tests.shell import Shell
from tests.support import numbered_samples, publish_extractor, wait_for

SMALL_DISK_BYTES = 16 * 1024**2


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


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 16 MB. Where no file system can be mounted, the answers of the system are replaced."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        real = free_space.disk

        def stand_in(path: str) -> tuple[int, int]:
            used = sum(file.stat().st_size for file in disk.rglob("*") if file.is_file())
            return (-1, SMALL_DISK_BYTES - used) if Path(path).is_relative_to(disk) else real(path)

        for module in (free_space, disk_errors):
            monkeypatch.setattr(module, "disk", stand_in)
        yield disk
    else:
        yield disk
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's home and Spark's local folder are not on the small disk."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "spark"))


def name_folder(monkeypatch: pytest.MonkeyPatch, setting: str, folder: Path) -> None:
    """Sets a setting to a folder."""
    monkeypatch.setenv(setting, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # Python reads TMPDIR once
